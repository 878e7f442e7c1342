"""Lowering: ONNX Runtime computes what the torch operator says, from the same integers.

Each test writes a graph of `edgepress` operators by hand, as the exporter leaves it, lowers it and runs it.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.export import quantized as ops
from edgepress.export.onnx_lower import pack
from edgepress.export.qtensor import QTensor

from .lower_check import Arrays, Call, floats, held, lowered, operators, ours, rng, run, unpack

few = settings(max_examples=25)  # each example is a session of its own


def in_blocks(rows: int, width: int, bits: int, block: int, asymmetric: bool, half: bool) -> dict[str, np.ndarray]:
    """Random integers, scales and perhaps zero points of a matrix in blocks."""
    blocks = -(-width // block)
    weight = {
        "values": rng().integers(0, 2**bits, (rows, width)).astype(np.uint8),
        "scale": (0.01 + 0.1 * rng().random((rows, blocks))).astype(np.float16 if half else np.float32),
    }
    if asymmetric:
        weight["zero"] = rng().integers(0, 2**bits, (rows, blocks)).astype(np.uint8)
    return weight


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def qtensor(weight: Arrays, bits: int, block: int) -> QTensor:
    return QTensor(**tensors(weight), bits=bits, block=block)


@given(data=st.data(), bits=st.sampled_from([4, 8]))
def test_packed_integers_unpack_to_what_they_were(data: st.DataObject, bits: int):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    values = np.array(
        data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))),
        np.uint8,
    ).reshape(shape)
    packed = pack(values, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), values)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@few
@given(scale=st.floats(2.0**-10, 8, width=32), data=st.data())
def test_a_static_activation_is_quantized_as_the_operator_says(dtype: str, scale: float, data: st.DataObject):
    limits = np.iinfo(dtype)
    zero = np.array(data.draw(st.integers(limits.min, limits.max)), dtype)
    steps = np.array(data.draw(st.lists(st.integers(-600, 600), min_size=1, max_size=12)), np.float32)
    x = (np.float32(scale) * steps / 2)[:, None]  # half steps: the ties, which go to the even neighbour
    parameters = {"scale": np.array(scale, np.float32), "zero": zero}
    model = lowered([ours("quantize_dequantize", "x scale zero")], {"x": x}, parameters)
    assert operators(model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    expected = ops.quantize_dequantize(torch.from_numpy(x), **tensors(parameters))
    np.testing.assert_array_equal(run(model, {"x": x})[0], expected.numpy())


@few
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from(["int8", "uint8", "int32"]),
    asymmetric=st.booleans(),
    data=st.data(),
)
def test_weights_dequantize_to_the_same_numbers_along_any_axis(
    shape: list[int], dtype: str, asymmetric: bool, data: st.DataObject
):
    axis = data.draw(st.integers(0, len(shape) - 1))
    limits = np.iinfo(dtype)
    weight = {
        "values": rng().integers(limits.min, limits.max, shape, endpoint=True).astype(dtype),
        "scale": (0.01 + rng().random(shape[axis])).astype(np.float32),
    }
    if dtype == "uint8" or (asymmetric and dtype == "int8"):  # the format has no zero points beside int32
        weight["zero"] = rng().integers(limits.min, limits.max, shape[axis], endpoint=True).astype(dtype)
    model = lowered([ours("dequantize", " ".join(weight), bits=8, axis=axis)], {}, weight)
    expected = QTensor(**tensors(weight), axis=axis).dequantize()
    np.testing.assert_array_equal(run(model)[0], expected.numpy())
    np.testing.assert_array_equal(held(model, "values"), weight["values"])


def test_scales_that_two_weights_share_keep_a_zero_point_of_each_type():
    weights = {"a": np.array([1, -2], np.int8), "b": np.array([70_000, 3], np.int32)}
    scale = np.array([0.5, 0.25], np.float32)
    calls = [ours("dequantize", "a scale", "y", bits=8, axis=0), ours("dequantize", "b scale", "z", bits=32, axis=0)]
    y, z = run(lowered(calls, {}, weights | {"scale": scale}, "y z"))
    np.testing.assert_array_equal(y, [0.5, -0.5])
    np.testing.assert_array_equal(z, [35_000, 0.75])


def test_a_constant_that_has_the_name_of_a_packed_weight_is_left_alone():
    weight = in_blocks(2, 16, 8, 16, asymmetric=False, half=False)
    layer = ours("block_linear", "x values scale", "h", bits=8, block=16)
    x, more = np.eye(16, dtype=np.float32), np.float32([[3, 4]])
    model = lowered([layer, Call("Add", ["h", "values_packed"], "y", {})], {"x": x}, weight | {"values_packed": more})
    expected = np.add(qtensor(weight, 8, 16).dequantize().numpy().T, more)
    np.testing.assert_allclose(run(model, {"x": x})[0], expected, rtol=1e-5)


@few
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 40),
    batch=st.integers(1, 5),
    bias=st.booleans(),
    size=st.floats(0.01, 9),
)
def test_a_dynamic_linear_is_the_operator_up_to_one_step_of_its_input(
    rows: int, width: int, batch: int, bias: bool, size: float
):
    x = floats(batch, width, scale=size)
    weight = {  # to 7 bits: the 16-bit sums of an x86 CPU without VNNI hold 2·255·64, and saturate at 2·255·127
        "values": rng().integers(-64, 64, (rows, width), endpoint=True).astype(np.int8),
        "scale": (0.001 + 0.1 * rng().random(rows)).astype(np.float32),
        "bias": floats(rows),
    }
    names = "x values scale bias" if bias else "x values scale"
    given_ = weight if bias else {n: weight[n] for n in ("values", "scale")}
    y = run(lowered([ours("dynamic_linear", names)], {"x": x}, given_), {"x": x})[0]
    expected = ops.dynamic_linear(torch.from_numpy(x), *(tensors(given_).get(n) for n in ("values", "scale", "bias")))
    # x/s may lie on a tie, where a rounding error in s decides: a value of x is then one step off
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    reach = step * np.abs(weight["values"] * weight["scale"][:, None]).max()
    assert np.abs(y - expected.numpy()).max() <= reach + 1e-5 * np.abs(expected.numpy()).max()


def test_an_input_of_zeros_is_quantized_without_dividing_by_nothing():
    weight = {"values": np.ones((2, 3), np.int8), "scale": np.ones(2, np.float32), "bias": np.float32([1, -1])}
    x = np.zeros((2, 3), np.float32)
    y = run(lowered([ours("dynamic_linear", "x values scale bias")], {"x": x}, weight), {"x": x})[0]
    np.testing.assert_array_equal(y, [[1, -1], [1, -1]])
    np.testing.assert_array_equal(y, ops.dynamic_linear(torch.from_numpy(x), **tensors(weight)).numpy())


def test_layers_that_read_the_same_input_quantize_it_once():
    constants = {
        f"{name}{i}": array
        for i in range(4)
        for name, array in {
            "values": rng().integers(-9, 9, (4, 4)).astype(np.int8),
            "scale": np.ones(4, np.float32),
        }.items()
    }
    calls = [ours("dynamic_linear", f"{x} values{i} scale{i}", f"y{i}") for i, x in enumerate(["x", "x", "x", "y0"])]
    x = floats(2, 4)
    model = lowered(calls, {"x": x}, constants, "y0 y1 y2 y3")
    assert operators(model)["DynamicQuantizeLinear"] == 2
    assert operators(model)["MatMulInteger"] == 4
    source = torch.from_numpy(x)
    for i, y in enumerate(run(model, {"x": x})):
        weight = tensors(constants)
        expected = ops.dynamic_linear(source, weight[f"values{i}"], weight[f"scale{i}"], None)
        np.testing.assert_allclose(y, expected.numpy(), rtol=1e-5, atol=1e-5)
        if i == 2:
            source = torch.from_numpy(run(model, {"x": x})[0])


widths = st.integers(1, 5).map(lambda n: n * 13) | st.sampled_from([1, 2, 16, 31, 32, 33, 64, 100])


@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@few
@given(rows=st.integers(1, 9), width=widths, block=st.sampled_from([16, 32, 64]), bias=st.booleans())
def test_a_block_linear_holds_the_weights_of_the_qtensor(
    bits: int, asymmetric: bool, rows: int, width: int, block: int, bias: bool
):
    weight = in_blocks(rows, width, bits, block, asymmetric, half=False)
    reference = qtensor(weight, bits, block).dequantize().numpy()
    given_ = weight | ({"bias": floats(rows)} if bias else {})
    order = ["values", "scale", "zero" if asymmetric else "", "bias" if bias else ""]
    while not order[-1]:
        order.pop()
    call = Call("edgepress.block_linear", ["x", *order], "y", {"bits": bits, "block": block})
    one_hot = np.eye(width, dtype=np.float32)  # each row is quantized without an error, so y is Wᵀ itself
    model = lowered([call], {"x": one_hot}, given_)
    expected = reference.T + given_.get("bias", np.float32(0))
    # the operator adds s·Q and −s·z apart from each other: where they cancel, what is left is their rounding
    terms = float(np.abs(weight["scale"]).max()) * 2**bits + float(np.abs(expected).max())
    rounding = 4 * np.finfo(np.float32).eps * terms
    np.testing.assert_allclose(run(model, {"x": one_hot})[0], expected, rtol=1e-5, atol=rounding)
    np.testing.assert_array_equal(
        unpack(held(model, "values_packed"), bits, block).reshape(rows, -1)[:, :width], weight["values"]
    )
    x = floats(5, width)
    error = np.abs(run(model, {"x": x})[0] - (x @ reference.T + given_.get("bias", np.float32(0))))
    assert (error <= bound(x, reference, block) + 1e-4).all()


def bound(x: np.ndarray, weight: np.ndarray, block: int) -> np.ndarray:
    """How far int8 activations may lead: half a step s = max|x|/127 of each block, times |W|, summed."""
    missing = -x.shape[-1] % block
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]).reshape(*x.shape[:-1], -1, block)
    steps = (np.abs(blocks).max(-1) / 127).repeat(block, -1)[..., : x.shape[-1]]
    return steps / 2 @ np.abs(weight).T


@pytest.mark.parametrize("half", [False, True], ids=["float32-scales", "float16-scales"])
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@few
@given(rows=st.integers(1, 9), width=widths, block=st.sampled_from([16, 32, 64]), data=st.data())
def test_a_block_embedding_gives_the_rows_of_the_qtensor(
    bits: int, asymmetric: bool, half: bool, rows: int, width: int, block: int, data: st.DataObject
):
    weight = in_blocks(rows, width, bits, block, asymmetric, half)
    ids = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6)), np.int64)[:, None]
    call = ours("block_embedding", " ".join(["ids", *weight]), bits=bits, block=block)
    model = lowered([call], {"ids": ids}, weight)
    y = run(model, {"ids": ids})[0]
    assert y.dtype == np.float32
    table = [tensors(weight).get(name) for name in ("values", "scale", "zero")]
    expected = ops.block_embedding(torch.from_numpy(ids), *table, bits, block)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(unpack(held(model, "values_packed"), bits, width), weight["values"])


def test_weights_that_no_node_reads_any_more_leave_the_file():
    weight = in_blocks(4, 32, 4, 32, asymmetric=True, half=False)
    model = lowered([ours("block_linear", "x values scale zero", bits=4, block=32)], {"x": floats(2, 32)}, weight)
    assert {t.name for t in model.graph.initializer} == {"values_packed", "scale_flat", "zero_packed"}
    assert {opset.domain for opset in model.opset_import} == {"", "com.microsoft"}


def test_layers_that_share_a_table_share_it_in_the_file():
    weight = in_blocks(4, 32, 8, 16, asymmetric=False, half=False)
    calls = [ours("block_embedding", f"{ids} values scale", y, bits=8, block=16) for ids, y in (("a", "y"), ("b", "z"))]
    ids = {"a": np.int64([[1]]), "b": np.int64([[3]])}
    model = lowered(calls, ids, weight, "y z")
    assert [t.name for t in model.graph.initializer].count("values_packed") == 1
    table = qtensor(weight, 8, 16).dequantize().numpy()
    for y, row in zip(run(model, ids), (1, 3), strict=True):
        np.testing.assert_array_equal(y[0, 0], table[row])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_transposed_weight_is_stored_transposed(axis: int):
    values, scale = rng().integers(-127, 127, (3, 5)).astype(np.int8), (0.1 + rng().random(3 if axis == 0 else 5))
    constants = {"values": values, "scale": scale.astype(np.float32)}
    calls = [
        ours("dequantize", "values scale", "w", bits=8, axis=axis),
        Call("Transpose", ["w"], "t", {"perm": [1, 0]}),
        Call("MatMul", ["x", "t"], "y", {}),
    ]
    x = floats(2, 5)
    model = lowered(calls, {"x": x}, constants)
    assert operators(model) == {"DequantizeLinear": 1, "MatMul": 1}
    np.testing.assert_array_equal(held(model, "values_t"), values.T)
    expected = x @ QTensor(**tensors(constants), axis=axis).dequantize().numpy().T
    # as it stands: with optimizations ONNX Runtime rounds x to 8 bits here, of its own accord
    np.testing.assert_allclose(run(model, {"x": x}, optimize=False)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_read_as_it_is_too_is_transposed_at_run_time():
    constants = {"values": rng().integers(-9, 9, (4, 4)).astype(np.int8), "scale": np.ones(4, np.float32)}
    calls = [
        ours("dequantize", "values scale", "w", bits=8, axis=0),
        Call("Transpose", ["w"], "t", {"perm": [1, 0]}),
        Call("Add", ["w", "t"], "y", {}),
    ]
    model = lowered(calls, {}, constants)
    assert operators(model)["Transpose"] == 1
    np.testing.assert_array_equal(run(model)[0], constants["values"] + constants["values"].T)


def mean(axes: Sequence[int], keep: int) -> tuple[list[Call], Arrays]:
    return [Call("ReduceMean", ["x", "axes"], "y", {"keepdims": keep})], {"axes": np.array(axes, np.int64)}


@pytest.mark.parametrize("axes", [(2, 3), (3, 2), (-1, -2)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_mean_over_the_image_is_a_global_average_pool(axes: Sequence[int], dtype: str):
    x = floats(2, 3, 4, 5).astype(dtype)
    calls, constants = mean(axes, keep=0)
    model = lowered(calls, {"x": x}, constants)
    assert operators(model) == {"GlobalAveragePool": 1, "Flatten": 1}
    y = run(model, {"x": x})[0]
    np.testing.assert_allclose(y, x.astype(np.float64).mean((2, 3)), atol=1e-6 if dtype == "float32" else 1e-3)


@pytest.mark.parametrize(
    ("shape", "axes", "keep", "dtype"),
    [
        ((2, 3, 4, 5), (1, 2), 0, "float32"),
        ((2, 3, 4, 5), (2, 3), 1, "float32"),
        ((2, 3, 4), (1, 2), 0, "float32"),
        ((2, 3, 4, 5), (2, 3), 0, "float64"),  # ONNX Runtime has no pooling of doubles
    ],
)
def test_another_mean_stays_a_mean(shape: tuple[int, ...], axes: Sequence[int], keep: int, dtype: str):
    x = floats(*shape).astype(dtype)
    calls, constants = mean(axes, keep)
    model = lowered(calls, {"x": x}, constants)
    assert operators(model) == {"ReduceMean": 1}
    expected = x.mean(tuple(axes), keepdims=bool(keep))
    np.testing.assert_allclose(run(model, {"x": x})[0], expected, atol=1e-6)


def test_a_quantized_mean_is_quantized_before_it_is_flattened_too():
    parameters = {"scale": np.array(0.05, np.float32), "zero": np.array(100, np.uint8)}
    calls, constants = mean((2, 3), keep=0)
    calls = [Call("ReduceMean", ["x", "axes"], "m", {"keepdims": 0}), ours("quantize_dequantize", "m scale zero")]
    x = floats(2, 3, 4, 5)
    model = lowered(calls, {"x": x}, constants | parameters)
    kinds = ["GlobalAveragePool", "QuantizeLinear", "DequantizeLinear", "Flatten", "QuantizeLinear", "DequantizeLinear"]
    assert [node.op_type for node in model.graph.node] == kinds
    expected = ops.quantize_dequantize(torch.from_numpy(x).mean((2, 3)), **tensors(parameters)).numpy()
    assert np.abs(run(model, {"x": x})[0] - expected).max() <= 0.05 * 1.001  # the mean may lie on a tie: one step
