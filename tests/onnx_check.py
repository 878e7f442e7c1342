"""What the tests of the ONNX reader share: small files, and their comparison with ONNX Runtime.

The tolerance is 1e-5 of the largest magnitude (of 1, where that is smaller); integers and bools must be equal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

from edgepress.compress.onnx_graph import read_onnx
from edgepress.export.model import Model

TOLERANCE = 1e-5
BOOL, FLOAT, INT64, INT32 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
Arrays = Mapping[str, np.ndarray]

rng = np.random.default_rng(0)
random_settings = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.asarray(np.abs(floats(*shape)) + 0.1, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


x34, x234, image = floats(3, 4), floats(2, 3, 4), floats(2, 4, 7, 6)


def case(op: str, *args: Any, **more: Any) -> Any:
    """A case for `check`: operator, inputs, constants, then how; named after the operator and its attributes."""
    shown = [f"{k}={v}" for k, v in more.items() if k not in ("out", "order")]
    return pytest.param(op, args, more, id="-".join([op, *shown]))


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
    order: Sequence[str] = (), outputs: int = 1, opset: int = 18, out: int = FLOAT, **attributes: Any,
) -> Model:  # fmt: skip
    """One operator in a file of its own, read and compared; inputs, then constants, where `order` is not given."""
    constants = constants or {}
    names = list(order) or [*inputs, *constants]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)
    kinds = {n: (helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()}
    results = {f"y{i}": out if i == 0 else INT64 if op == "TopK" else out for i in range(outputs)}
    path = write(folder / "model.onnx", [node], kinds, results, constants, opset)
    model = read_onnx(path)
    assert_same(path, model, inputs)
    return model


def layers_of(model: Model) -> dict[str, str]:
    """The kinds of the modules that hold no others, by name."""
    return {name: type(m).__name__ for name, m in model.module.named_modules() if not list(m.children()) and name}
