"""Every operator against ONNX Runtime on the same file: 1e-5 of the largest magnitude, integers exactly."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from edgepress.compress.onnx_graph import read_onnx
from edgepress.compress.onnx_ops import OPS
from edgepress.export.model import Model
from edgepress.runtime.errors import ModelError, UnsupportedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

TOLERANCE = 1e-5
Arrays = Mapping[str, np.ndarray]

_rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.asarray(np.abs(floats(*shape)) + 0.1, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    outputs: Mapping[str, int],
    constants: Arrays,
    opset: int = 18,
) -> Path:
    """Write a model; `inputs` name their type and shape, `outputs` their type."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def assert_same(path: Path, model: Model, inputs: Arrays) -> None:
    session = ort.InferenceSession(path)
    expected = session.run(None, dict(inputs))
    names = {i.name: name for i, name in zip(session.get_inputs(), model.example, strict=True)}
    actual = model(**{names[n]: torch.from_numpy(a) for n, a in inputs.items()})
    for want, have in zip(expected, actual.values(), strict=True):
        have = have.numpy()
        assert (have.shape, have.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            limit = TOLERANCE * max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0)))
            np.testing.assert_allclose(have, want, rtol=0, atol=limit)
        else:
            np.testing.assert_array_equal(have, want)


def check(
    folder: Path, op: str, inputs: Arrays, constants: Arrays | None = None, *,
    order: Sequence[str] = (), outputs: int = 1, opset: int = 18, out: int = TensorProto.FLOAT, **attributes: Any,
) -> Model:  # fmt: skip
    """One operator in a file of its own, read and compared; inputs first, then constants, where `order` is not given."""
    constants = constants or {}
    names = list(order) or [*inputs, *constants]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)
    kinds = {n: (helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()}
    results = {f"y{i}": out if i == 0 else TensorProto.INT64 if op == "TopK" else out for i in range(outputs)}
    path = write(folder / "model.onnx", [node], kinds, results, constants, opset)
    model = read_onnx(path)
    assert_same(path, model, inputs)
    return model


BOOL, INT64, INT32 = TensorProto.BOOL, TensorProto.INT64, TensorProto.INT32
x34, x234, image = floats(3, 4), floats(2, 3, 4), floats(2, 4, 7, 6)
bits = floats(3, 4) > 0

UNARY = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin",
         "Softplus", "Softsign", "Tanh", "Tan", "Atan", "Identity", "HardSwish", "Mish", "Elu", "Selu", "LeakyRelu",
         "HardSigmoid", "Celu", "ThresholdedRelu"]  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"x": x34 * 3})


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Asin", "Acos"])
def test_unary_operators_of_a_part_of_the_numbers(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"x": np.clip(positive(3, 4), 0.1, 0.9)})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod"])
@pytest.mark.parametrize("shape", [(3, 4), (4,), (3, 1), ()])
@pytest.mark.parametrize("constant", [True, False])
def test_binary_operators_broadcast(op: str, shape: tuple[int, ...], constant: bool, tmp_path: Path) -> None:
    a, b = positive(3, 4), positive(*shape)
    more = {"fmod": 1} if op == "Mod" else {}
    check(tmp_path, op, {"a": a} if constant else {"a": a, "b": b}, {"b": b} if constant else {}, **more)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"])
def test_binary_operators_on_integers(op: str, tmp_path: Path) -> None:
    a, b = np.arange(-6, 6).reshape(3, 4), ints(2, -3, 4, -5)
    check(tmp_path, op, {"a": a}, {"b": b}, out=INT64)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"a": np.round(x34)}, {"b": scalar(1)}, out=BOOL)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"a": bits}, {"b": bits[:1]}, out=BOOL)


def big(op: str, *args: Any, **more: Any) -> Any:
    """A case: operator, inputs, constants, then how; named after the operator and its attributes."""
    shown = [f"{k}={v}" for k, v in more.items() if k not in ("out", "order")]
    return pytest.param(op, args, more, id="-".join([op, *shown]))


with_nan = np.array([[1, np.nan], [np.inf, -np.inf]], np.float32)
table, index = floats(9, 4), np.array([[1, 0], [-1, 3]])

CASES = [
    big("Not", {"x": bits}, out=BOOL),
    big("IsNaN", {"x": with_nan}, out=BOOL),
    big("IsInf", {"x": with_nan}, out=BOOL),
    big("LeakyRelu", {"x": x34}, alpha=0.3),
    big("Elu", {"x": x34}, alpha=0.3),
    big("Selu", {"x": x34}, alpha=1.2, gamma=0.7),
    big("HardSigmoid", {"x": x34 * 4}, alpha=1 / 6, beta=0.5),
    big("Gelu", {"x": x34}, opset=20),
    big("Gelu", {"x": x34}, opset=20, approximate="tanh"),
    big("PRelu", {"x": image}, {"slope": floats(4, 1, 1)}),
    big("Clip", {"x": x34}, {"min": scalar(-0.5), "max": scalar(0.5)}),
    big("Clip", {"x": x34, "min": scalar(-0.5)}, {"max": scalar(0.5)}),
    big("Clip", {"x": x34}, {"max": scalar(0.5)}, order=["x", "", "max"]),
    big("Clip", {"x": x34}, opset=6, min=0.0, max=6.0),
    big("Softmax", {"x": x234}, axis=1),
    big("Softmax", {"x": x234}, axis=1, opset=11),
    big("LogSoftmax", {"x": x234}, axis=-1),
    big("LogSoftmax", {"x": x234}, axis=1, opset=11),
    big("Where", {"c": bits, "x": x34}, {"y": scalar(-3)}),
    big("Where", {"c": bits, "y": x34}, {"x": scalar(-3)}, order=["c", "x", "y"]),
    big("ReduceMean", {"x": x234}, axes=[1, -1], keepdims=0, opset=17),
    big("ReduceMean", {"x": x234}, {"axes": ints(-1)}),
    big("ReduceMean", {"x": x234}),
    big("ReduceSum", {"x": x234}, {"axes": ints(0, 2)}, keepdims=0),
    big("ReduceSum", {"x": x234}, noop_with_empty_axes=1),
    big("ReduceSum", {"x": x234}, axes=[1], opset=11),
    big("ReduceMax", {"x": x234}, {"axes": ints(1)}),
    big("ReduceMin", {"x": x234}, {"axes": ints(1)}, keepdims=0),
    big("ReduceL1", {"x": x234}, {"axes": ints(-1)}),
    big("ReduceL2", {"x": x234}, {"axes": ints(-1)}),
    big("ReduceSumSquare", {"x": x234}, {"axes": ints(1, 2)}),
    big("ReduceLogSumExp", {"x": x234}, {"axes": ints(1)}),
    big("ReduceProd", {"x": x234}, {"axes": ints(0, 2)}, keepdims=0),
    big("ArgMax", {"x": np.round(x234)}, axis=1, keepdims=0, out=INT64),
    big("ArgMax", {"x": np.round(x234)}, axis=-1, select_last_index=1, out=INT64),
    big("ArgMin", {"x": np.round(x234)}, axis=2, out=INT64),
    big("CumSum", {"x": x234}, {"axis": np.array(1)}),
    big("CumSum", {"x": x234}, {"axis": ints(-1)}, exclusive=1, reverse=1),
    big("Trilu", {"x": x234}),
    big("Trilu", {"x": x234}, {"k": np.array(-1)}, upper=0),
    big("EyeLike", {"x": x34}, k=1),
    big("TopK", {"x": x234}, {"k": ints(2)}, outputs=2, axis=1),
    big("TopK", {"x": x234}, {"k": ints(2)}, outputs=2, largest=0),
    big("MatMul", {"a": x234, "b": floats(4, 5)}),
    big("MatMul", {"a": x234}, {"b": floats(2, 4, 5)}),
    big("Gemm", {"a": x34, "b": floats(5, 4), "c": floats(5)}, transB=1, alpha=0.5, beta=2.0),
    big("Gemm", {"a": x34}, {"b": floats(3, 5), "c": floats(4, 5)}, transA=1),
    big("Gemm", {"a": x34}, {"b": floats(4, 5), "c": floats(3, 1)}),
    big("Gemm", {"a": x34}, {"b": floats(4, 5), "c": scalar(2)}),
    big("Einsum", {"a": x234, "b": x234}, equation="bij,bkj->bik"),
    big("LayerNormalization", {"x": x234}, {"w": floats(3, 4), "b": floats(3, 4)}, axis=1),
    big("LayerNormalization", {"x": x234, "w": floats(4)}, epsilon=1e-3),
    big("InstanceNormalization", {"x": image}, {"w": floats(4), "b": floats(4)}),
    big("GroupNormalization", {"x": image}, {"w": floats(4), "b": floats(4)}, opset=21, num_groups=2),
    big("GroupNormalization", {"x": image}, {"w": floats(2), "b": floats(2)}, opset=18, num_groups=2),
    big("BatchNormalization", {"x": image, "w": positive(4)}, {"b": floats(4), "m": floats(4), "v": positive(4)}),
    big("LpNormalization", {"x": x234}, axis=1, p=1),
    big("LRN", {"x": image}, size=3),
    big("Flatten", {"x": x234}),
    big("Flatten", {"x": x234}, axis=-1),
    big("Flatten", {"x": x234}, axis=0),
    big("Reshape", {"x": x234}, {"shape": ints(0, -1)}),
    big("Reshape", {"x": x234}, {"shape": ints(4, 3, 2)}, allowzero=1),
    big("Transpose", {"x": x234}, perm=[2, 0, 1]),
    big("Transpose", {"x": x234}),
    big("Squeeze", {"x": floats(1, 3, 1)}),
    big("Squeeze", {"x": floats(1, 3, 1)}, {"axes": ints(-1)}),
    big("Squeeze", {"x": floats(1, 3, 1)}, axes=[0], opset=11),
    big("Unsqueeze", {"x": x34}, {"axes": ints(0, -1)}),
    big("Unsqueeze", {"x": x34}, axes=[1, 3], opset=11),
    big("Concat", {"a": x234, "b": floats(2, 1, 4)}, {"c": floats(2, 2, 4)}, axis=1),
    big("Split", {"x": x234}, {"split": ints(1, 3)}, outputs=2, axis=-1),
    big("Split", {"x": x234}, outputs=2, axis=2, split=[1, 3], opset=11),
    big("Split", {"x": x234}, outputs=2, axis=2, opset=13),
    big("Split", {"x": floats(2, 7)}, outputs=3, axis=1, num_outputs=3),
    big("Slice", {"x": image}, {"s": ints(1, -3), "e": ints(2**63 - 1, -1), "a": ints(1, 3)}),
    big("Slice", {"x": image}, {"s": ints(6, 0), "e": ints(-(2**63), 5), "a": ints(2, -1), "t": ints(-2, 3)}),
    big("Slice", {"x": image}, {"s": ints(99, -2), "e": ints(1, -5), "a": ints(2, -1), "t": ints(-1, -1)}),
    big("Slice", {"x": x34}, starts=[1, 0], ends=[3, -1], opset=9),
    big("Gather", {"x": table, "i": index}),
    big("Gather", {"x": x234}, {"i": ints(2, 0)}, axis=1),
    big("Gather", {"x": x234}, {"i": np.array(-1)}, axis=1),
    big("Gather", {"x": x234}, {"i": index}, axis=-1),
    big("GatherElements", {"x": x34}, {"i": np.array([[1, -1, 0, 2]])}),
    big("GatherND", {"x": x234}, {"i": np.array([[1, 2], [0, -1]])}),
    big("GatherND", {"x": x234}, {"i": np.array([[[2, 1]], [[0, 3]]])}, batch_dims=1),
    big("ScatterND", {"x": x34}, {"i": np.array([[2], [0]]), "u": floats(2, 4)}),
    big("ScatterElements", {"x": x34}, {"i": np.array([[1, -1, 0, 2]]), "u": floats(1, 4)}),
    big("Expand", {"x": floats(3, 1)}, {"shape": ints(2, 1, 4)}),
    big("Tile", {"x": x34}, {"r": ints(2, 3)}),
    big("ConstantOfShape", {}, {"shape": ints(2, 3)}),
    big("Range", {}, {"a": np.array(1), "b": np.array(9), "c": np.array(3)}, out=INT64),
    big("Range", {}, {"a": scalar(1), "b": scalar(2), "c": scalar(0.25)}),
    big("Shape", {"x": x234}, out=INT64),
    big("Shape", {"x": x234}, out=INT64, start=-2, end=-1),
    big("Size", {"x": x234}, out=INT64),
    big("Cast", {"x": x34 * 3}, to=INT32, out=INT32),
    big("Cast", {"x": bits}, to=TensorProto.FLOAT),
    big("Cast", {"x": x34}, to=TensorProto.FLOAT16, out=TensorProto.FLOAT16),
    big("Dropout", {"x": x34}),
    big("Dropout", {"x": x34}, ratio=0.3, opset=11),
    big("Pad", {"x": x34}, {"pads": ints(1, 0, 0, 2)}),
    big("Pad", {"x": x34}, {"pads": ints(1, 0, 0, 2), "value": scalar(7)}),
    big("Pad", {"x": image}, {"pads": ints(1, 2), "value": scalar(7), "axes": ints(-2)}),
    big("Pad", {"x": image}, {"pads": ints(0, 0, 1, -2, 0, 0, 2, 1)}),
    big("Pad", {"x": image}, {"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
    big("Pad", {"x": image}, {"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="edge"),
    big("Pad", {"x": x34}, opset=10, pads=[1, 0, 0, 2], value=3.0),
    big("DepthToSpace", {"x": image}, blocksize=2),
    big("DepthToSpace", {"x": image}, blocksize=2, mode="CRD"),
    big("SpaceToDepth", {"x": floats(1, 3, 4, 6)}, blocksize=2),
    big("GlobalAveragePool", {"x": image}),
    big("GlobalMaxPool", {"x": image}),
    big("CastLike", {"x": x34, "t": ints(1)}, out=INT64),
    big("RMSNormalization", {"x": x234}, {"w": floats(4)}, opset=23),
    big("Swish", {"x": x34}, opset=24, alpha=0.5),
    big("Upsample", {"x": image}, {"scales": np.array([1, 1, 2, 3], np.float32)}, opset=9),
    big("Resize", {"x": image}, {"scales": np.array([1, 1, 2, 3], np.float32)}, opset=10, mode="linear"),
]


@pytest.mark.parametrize(("op", "args", "more"), CASES)
def test_operators_and_their_attributes(op: str, args: tuple[Arrays, ...], more: dict[str, Any], tmp_path: Path) -> None:
    check(tmp_path, op, *args, **more)


def auto_or_pads(n: int, largest: int) -> st.SearchStrategy[dict[str, Any]]:
    explicit = st.lists(st.integers(0, largest), min_size=2 * n, max_size=2 * n).map(lambda p: {"pads": p})
    automatic = st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]).map(lambda a: {"auto_pad": a})
    return explicit | automatic


def per_axis(n: int, largest: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, largest), min_size=n, max_size=n)


random_settings = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data(), n=st.integers(1, 3), group=st.sampled_from([1, 2, 4]), constant=st.booleans())
@random_settings
def test_convolutions_of_any_window(data: st.DataObject, n: int, group: int, constant: bool, tmp_path: Path) -> None:
    kernel, strides, dilations = (data.draw(per_axis(n, m)) for m in (3, 3, 2))
    padding = data.draw(auto_or_pads(n, 2))
    x, w, b = floats(2, 4, *(7 - i for i in range(n))), floats(8, 4 // group, *kernel), floats(8)
    how = {"strides": strides, "group": group, **padding}
    if "auto_pad" not in padding:  # ONNX Runtime refuses the two together
        how["dilations"] = dilations
    inputs, constants = ({"x": x}, {"w": w, "b": b}) if constant else ({"x": x, "w": w, "b": b}, {})
    model = check(tmp_path, "Conv", inputs, constants, **how)
    layers = [m for m in model.module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    assert len(layers) == constant


@given(data=st.data(), n=st.integers(1, 3), group=st.sampled_from([1, 2]), constant=st.booleans())
@random_settings
def test_transposed_convolutions(data: st.DataObject, n: int, group: int, constant: bool, tmp_path: Path) -> None:
    kernel, strides = data.draw(per_axis(n, 3)), data.draw(per_axis(n, 3))
    pads = data.draw(st.lists(st.integers(0, 1), min_size=2 * n, max_size=2 * n))
    more = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    more = [min(m, s - 1) for m, s in zip(more, strides, strict=True)]
    x, w, b = floats(2, 4, *[5] * n), floats(4, 6 // group, *kernel), floats(6)
    inputs, constants = ({"x": x}, {"w": w, "b": b}) if constant else ({"x": x, "w": w, "b": b}, {})
    check(tmp_path, "ConvTranspose", inputs, constants, strides=strides, pads=pads, group=group, output_padding=more)


@given(data=st.data(), n=st.integers(1, 3), ceil=st.booleans())
@random_settings
def test_max_pooling_of_any_window(data: st.DataObject, n: int, ceil: bool, tmp_path: Path) -> None:
    kernel, strides, dilations = (data.draw(per_axis(n, m)) for m in (3, 3, 2))
    padding = data.draw(auto_or_pads(n, min(kernel) - 1))
    if "auto_pad" in padding:  # ONNX Runtime refuses what skips values
        dilations, ceil, strides = [1] * n, False, [min(pair) for pair in zip(kernel, strides, strict=True)]
    x = floats(2, 3, *(7 - i for i in range(n)))
    check(tmp_path, "MaxPool", {"x": x}, kernel_shape=kernel, strides=strides, dilations=dilations,
          ceil_mode=int(ceil), **padding)  # fmt: skip


@given(data=st.data(), n=st.integers(1, 3), ceil=st.booleans(), include=st.booleans())
@random_settings
def test_average_pooling_of_any_window(
    data: st.DataObject, n: int, ceil: bool, include: bool, tmp_path: Path
) -> None:  # fmt: skip
    kernel, strides = data.draw(per_axis(n, 3)), data.draw(per_axis(n, 3))
    padding = data.draw(auto_or_pads(n, min(kernel) - 1))
    if "auto_pad" in padding:
        strides = [min(pair) for pair in zip(kernel, strides, strict=True)]
    x = floats(2, 3, *(7 - i for i in range(n)))
    check(tmp_path, "AveragePool", {"x": x}, kernel_shape=kernel, strides=strides, count_include_pad=int(include),
          ceil_mode=int(ceil and "pads" in padding), opset=22, **padding)  # fmt: skip


COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(2, 3), (0.7, 1.7), (0.5, 0.5)])
def test_nearest_resizing(coordinates: str, nearest: str, scales: tuple[float, float], tmp_path: Path) -> None:
    factors = np.array([1, 1, *scales], np.float32)
    check(tmp_path, "Resize", {"x": image}, {"s": factors}, order=["x", "", "s"], opset=19,
          coordinate_transformation_mode=coordinates, nearest_mode=nearest)  # fmt: skip


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", [(14, 18), (3, 3), (5, 11)])
@pytest.mark.parametrize("by_size", [True, False])
def test_linear_resizing(coordinates: str, sizes: tuple[int, int], by_size: bool, tmp_path: Path) -> None:
    factors = np.array([1, 1, sizes[0] / 7, sizes[1] / 6], np.float32)
    target = {"s": ints(2, 4, *sizes)} if by_size else {"s": factors}
    check(tmp_path, "Resize", {"x": image}, target, order=["x", "", "", "s"] if by_size else ["x", "", "s"], opset=19,
          coordinate_transformation_mode=coordinates, mode="linear")  # fmt: skip


def test_every_operator_of_the_table_is_compared() -> None:
    shown = {case.values[0] for case in CASES} | set(UNARY)
    source = Path(__file__).read_text(encoding="utf-8")
    assert [op for op in OPS if op not in shown and f'"{op}"' not in source] == []


def layers_of(model: Model) -> dict[str, str]:
    return {name: type(m).__name__ for name, m in model.module.named_modules() if not list(m.children()) and name}


@pytest.mark.parametrize(
    ("op", "args", "more", "layer"),
    [
        ("Gemm", ({"x": x34}, {"w": floats(5, 4), "b": floats(5)}), {"transB": 1, "alpha": 0.5, "beta": 2.0}, "Linear"),
        ("Gemm", ({"x": x34}, {"w": floats(4, 5), "b": floats(1, 5)}), {}, "Linear"),
        ("Gemm", ({"x": x34}, {"w": floats(4, 5)}), {}, "Linear"),
        ("MatMul", ({"x": x234}, {"w": floats(4, 5)}), {}, "Linear"),
        ("Gather", ({"i": np.abs(index)}, {"w": table}), {"order": ["w", "i"]}, "Embedding"),
        ("LayerNormalization", ({"x": x234}, {"w": floats(4), "b": floats(4)}), {"epsilon": 1e-3}, "LayerNorm"),
        ("LayerNormalization", ({"x": x234}, {"w": floats(4)}), {"axis": 2}, "LayerNorm"),
        ("Conv", ({"x": image}, {"w": floats(8, 4, 3, 3)}), {}, "Conv2d"),
        ("ConvTranspose", ({"x": image}, {"w": floats(4, 2, 3, 3)}), {}, "ConvTranspose2d"),
    ],
)
def test_constant_weights_become_layers(op: str, args: Any, more: dict[str, Any], layer: str, tmp_path: Path) -> None:
    model = check(tmp_path, op, *args, **more)
    assert list(layers_of(model).values()) == [layer]


@pytest.mark.parametrize(("shape", "layer"), [((2, 4), "BatchNorm1d"), ((2, 4, 5), "BatchNorm1d"),
                                              ((2, 4, 5, 6), "BatchNorm2d"), ((2, 4, 2, 3, 2), "BatchNorm3d")])  # fmt: skip
def test_batch_normalization_knows_its_rank(shape: tuple[int, ...], layer: str, tmp_path: Path) -> None:
    constants = {"w": positive(4), "b": floats(4), "m": floats(4), "v": positive(4)}
    model = check(tmp_path, "BatchNormalization", {"x": floats(*shape)}, constants, epsilon=1e-3)
    assert list(layers_of(model).values()) == [layer]
    assert not model.module.training


@pytest.mark.parametrize("bias_first", [True, False])
def test_a_bias_joins_its_product(bias_first: bool, tmp_path: Path) -> None:
    product = ["b", "p"] if bias_first else ["p", "b"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "/head/MatMul"), helper.make_node("Add", product, ["y"])]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {"y": 1}, {"w": floats(4, 5), "b": floats(5)})
    model = read_onnx(path)
    assert layers_of(model) == {"head": "Linear"}
    assert model.module.get_submodule("head").bias is not None
    assert_same(path, model, {"x": x34})


def test_a_product_that_is_read_twice_keeps_its_sum_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {"y": 1, "p": 1}, {"w": floats(4, 5), "b": floats(5)})
    assert_same(path, read_onnx(path), {"x": x34})


def test_weights_behind_constant_operators_become_layers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("Mul", ["wt", "half"], ["ws"]),
        helper.make_node("MatMul", ["x", "ws"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {"y": 1}, {"w": floats(5, 4)})
    model = read_onnx(path)
    assert list(layers_of(model).values()) == ["Linear"]
    assert_same(path, model, {"x": x34})


def test_tied_matrices_stay_tied_and_shared_biases_part(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table.weight", "i"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("LayerNormalization", ["q", "b", "b"], ["n"]),
        helper.make_node("Transpose", ["table.weight"], ["t"]),
        helper.make_node("MatMul", ["n", "t"], ["y"], "head"),
    ]
    constants = {"table.weight": table, "w": floats(4, 4), "b": floats(4)}
    path = write(tmp_path / "m.onnx", nodes, {"i": (INT64, (2, 2))}, {"y": 1}, constants)
    model = read_onnx(path)
    assert_same(path, model, {"i": np.abs(index)})
    module = model.module
    assert module.get_submodule("table").weight is module.get_submodule("head").weight
    norm = next(m for m in module.modules() if isinstance(m, nn.LayerNorm))
    assert norm.weight.data_ptr() != norm.bias.data_ptr()


def test_names_that_python_does_not_take_are_changed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["input.1", "class"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["1"], "a/weird name!/forward/MatMul"),
    ]
    shapes = {"input.1": (1, ("batch size", 4)), "class": (1, (None, 4))}
    path = write(tmp_path / "m.onnx", nodes, shapes, {"1": 1, "s": 1}, {"w": floats(4, 4)})
    model = read_onnx(path)
    assert list(model.example) == ["input_1", "class_"]
    assert model.outputs == ("_1", "s")
    assert model.axes == {"input_1": {0: "batch_size"}, "class_": {0: "batch"}}
    assert layers_of(model) == {"a.weird_name_.forward_": "Linear"}
    assert_same(path, model, {"input.1": x34, "class": x34})


def test_no_layer_lies_in_another(tmp_path: Path) -> None:
    names = ["/a/MatMul", "/a/b/MatMul", "a/MatMul", "", "/a/b/c/MatMul_1", "a"]
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"], name) for i, name in enumerate(names)]
    path = write(tmp_path / "m.onnx", nodes, {"x0": (1, (3, 4))}, {f"x{len(names)}": 1}, {"w": floats(4, 4)})
    model = read_onnx(path)
    assert len(layers_of(model)) == len(names)
    assert_same(path, model, {"x0": x34})


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-8 in the MLPerf Tiny shape, with random weights and statistics."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2),
        Residual(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


class Encoder(nn.Module):
    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=64, max_position_embeddings=40)  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        weights = attention_mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9), hidden


def export(path: Path, module: nn.Module, example: Mapping[str, torch.Tensor], axes: Mapping[str, Any]) -> Path:
    """Write a module with torch's own exporter."""
    shapes = {n: {axis: torch.export.Dim.AUTO for axis in axes.get(n, {})} for n in example}
    with torch.no_grad():
        program = torch.export.export(module, (), dict(example), dynamic_shapes=shapes)
        exported = torch.onnx.export(program, dynamo=True, opset_version=21, verbose=False)
    assert exported is not None
    exported.save(path)
    return path


quiet = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import warnings

    ids = torch.ones(2, 7, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
        return export(path, Encoder(), dict.fromkeys(names, ids), dict.fromkeys(names, {0: "b", 1: "s"}))


def sentences(batch: int, length: int) -> dict[str, np.ndarray]:
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 + 1 :] = 0
    return {"input_ids": _rng.integers(0, 60, (batch, length)), "attention_mask": mask,
            "token_type_ids": _rng.integers(0, 2, (batch, length))}  # fmt: skip


def test_an_encoder_keeps_batch_and_sequence_free(encoder: Path) -> None:
    model = read_onnx(encoder)
    assert {n: len(a) for n, a in model.axes.items()} == {"input_ids": 2, "attention_mask": 2, "token_type_ids": 2}
    assert {tuple(t.shape) for t in model.example.values()} == {(2, 2)}
    for shape in [(1, 1), (3, 11), (2, 40)]:
        assert_same(encoder, model, sentences(*shape))


def test_an_encoders_layers_have_their_modules_names(encoder: Path) -> None:
    layers = layers_of(read_onnx(encoder))
    names = [n for n, m in Encoder().named_modules() if isinstance(m, nn.Linear | nn.Embedding | nn.LayerNorm)]
    assert sorted(layers) == sorted(names)
    assert layers["bert.encoder.layer.1.attention.self.query"] == "Linear"


@quiet
def test_an_encoder_goes_through_export_again(encoder: Path, tmp_path: Path) -> None:
    model = read_onnx(encoder)
    again = export(tmp_path / "again.onnx", model.module, model.example, model.axes)
    session, original = ort.InferenceSession(again), ort.InferenceSession(encoder)
    for shape in [(1, 3), (3, 11), (2, 40)]:
        inputs = sentences(*shape)
        for have, want in zip(session.run(None, inputs), original.run(None, inputs), strict=True):
            np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


@quiet
def test_a_cnn_comes_back_with_its_layers_and_goes_out_again(tmp_path: Path) -> None:
    net, images = resnet(), torch.randn(2, 1, 8, 8)
    path = export(tmp_path / "resnet.onnx", net, {"input": images}, {"input": {0: "batch"}})
    model = read_onnx(path)
    assert list(layers_of(model).values()).count("Conv2d") == 10
    assert list(layers_of(model).values())[-1] == "Linear"
    for batch in (1, 2, 5):
        assert_same(path, model, {"input": floats(batch, 1, 8, 8)})
    again = export(tmp_path / "again.onnx", model.module, model.example, model.axes)
    x = floats(3, 1, 8, 8)
    want = ort.InferenceSession(path).run(None, {"input": x})[0]
    have = ort.InferenceSession(again).run(None, {"input": x})[0]
    np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


def test_gradients_reach_the_layers(encoder: Path) -> None:
    model = read_onnx(encoder)
    model.module(**model.example)[0].sum().backward()
    assert all(p.grad is not None for p in model.module.parameters())


def test_a_static_file_has_no_free_axes(tmp_path: Path) -> None:
    model = check(tmp_path, "Relu", {"x": x34})
    assert model.axes == {}
    assert model.example["x"].shape == (3, 4)


def test_the_same_file_gives_the_same_example_and_hash(encoder: Path) -> None:
    import hashlib

    a, b = read_onnx(encoder), read_onnx(encoder)
    assert all(torch.equal(a.example[n], b.example[n]) for n in a.example)
    assert a.source == {"kind": "onnx", "sha256": hashlib.sha256(encoder.read_bytes()).hexdigest()}
    assert a.name == "encoder"


def test_an_image_is_as_large_as_its_poolings_need(tmp_path: Path) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9])
    model = read_onnx(write(tmp_path / "m.onnx", [node], {"x": (1, ("n", 3, "h", "w"))}, {"y": 1}, {}))
    assert model.example["x"].shape == (2, 3, 32, 32)


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], "first"),
        helper.make_node("LSTM", ["x"], ["b"], "second"),
        helper.make_node("NonZero", ["x"], ["c"], "third"),
        helper.make_node("Resize", ["x"], ["d"], "fourth", mode="cubic"),
        helper.make_node("Relu", ["x"], ["e"], "fifth", slope=1),
        helper.make_node("MaxPool", ["x"], ["f", "g"], "sixth", kernel_shape=[1]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {n: 1 for n in "abcdefg"}, {})
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(path)
    message = str(caught.value)
    for part in ("NonZero (first, third)", "LSTM (second)", "Resize with mode='cubic' (fourth)",
                 "Relu with attribute slope (fifth)", "MaxPool with 2 outputs (sixth)"):  # fmt: skip
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("op", ["QuantizeLinear", "MatMulInteger", "DynamicQuantizeLinear", "Attention"])
def test_a_quantized_file_is_refused_by_name(op: str, tmp_path: Path) -> None:
    domain = "com.microsoft" if op == "Attention" else ""
    path = write(tmp_path / "m.onnx", [helper.make_node(op, ["x"], ["y"], domain=domain)], {"x": (1, (3,))}, {"y": 1}, {})
    with pytest.raises(UnsupportedError, match=rf"already quantized.*{op} \(1\); bring the float file"):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"no onnx at all", b"\x08\x07", b"\x80" * 99, bytes(range(256))])
def test_what_is_no_onnx_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no ONNX file") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_onnx(path)


@given(data=st.data())
@random_settings
def test_a_damaged_file_raises_nothing_but_our_errors(data: st.DataObject, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("MatMul", ["b", "m"], ["y"]),
    ]
    constants = {"w": floats(4, 4, 3, 3), "s": ints(2, 4, 6), "m": floats(6, 3)}
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (2, 4, 2, 3))}, {"y": 1}, constants)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        read_onnx(path)
    except (ModelError, UnsupportedError) as error:
        assert "\n" not in str(error)


def external(folder: Path, location: str) -> Path:
    """A file whose weights lie beside it."""
    write(folder / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, (3, 40))}, {"y": 1},
          {"w": floats(40, 50)})  # fmt: skip
    model = onnx.load(folder / "m.onnx")
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_weights_beside_the_file_are_read_and_hashed(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    model = read_onnx(path)
    assert_same(path, model, {"x": floats(3, 40)})
    (tmp_path / "weights.bin").write_bytes(floats(40, 50).tobytes())
    assert read_onnx(path).source["sha256"] != model.source["sha256"]


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "sub/weights.bin", "", ".", "..", "link.bin"])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder, location)
    (folder / "sub").mkdir()
    for place in (tmp_path, folder / "sub"):
        (place / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="own folder|missing"):
        read_onnx(path)


@pytest.mark.parametrize("size", [0, 100])
def test_weights_that_are_cut_short_are_refused(size: int, tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"x" * size)
    with pytest.raises(ModelError, match="too short"):
        read_onnx(path)


def test_an_older_files_weights_that_are_also_inputs_are_constants(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = write(tmp_path / "m.onnx", [node], {"x": (1, (3, 4)), "w": (1, (4, 5))}, {"y": 1}, {"w": floats(4, 5)})
    model = read_onnx(path)
    assert list(model.example) == ["x"]


def test_sizes_computed_as_tensors_stay_free(tmp_path: Path) -> None:
    """(n, c, h, w) -> (n, h * w, c), as TensorFlow's converter writes it: Shape, Cast to int32, Gather, Mul, Concat."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s64"]),
        helper.make_node("Cast", ["s64"], ["s"], to=INT32),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Gather", ["s", "three"], ["w"]),
        helper.make_node("Mul", ["h", "w"], ["hw"]),
        helper.make_node("Unsqueeze", ["hw", "zero"], ["hw1"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n1"]),
        helper.make_node("Slice", ["s", "one", "two1"], ["c1"]),
        helper.make_node("Concat", ["n1", "c1", "hw1"], ["target32"], axis=0),
        helper.make_node("Cast", ["target32"], ["target"], to=INT64),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]
    constants = {"zero": ints(0), "one": ints(1), "two1": ints(2), "two": np.array(2), "three": np.array(3)}
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, ("n", 3, "h", "w"))}, {"y": 1, "target32": INT32}, constants)
    model = read_onnx(path)
    assert_same(path, model, {"x": floats(4, 3, 5, 6)})
    shapes = {"x": {axis: torch.export.Dim.AUTO for axis in model.axes["x"]}}
    module = torch.export.export(model.module, (), dict(model.example), dynamic_shapes=shapes).module()
    y, _ = module(x=torch.randn(5, 3, 7, 9))
    assert y.shape == (5, 63, 3)
