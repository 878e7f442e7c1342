"""What an NPU does not take is told by name, with the number of nodes and what to do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.devices.device import find_device
from edgepress.export.unsuited import unsuited

REMEDY = "; compress the model with --on sm8650"
CONSTANTS = {
    "w": np.ones((3, 3), np.float32), "half": np.ones((3, 3), np.float16), "q": np.ones((3, 3), np.int8),
    "s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(0), "l": np.uint16(0), "b": np.ones(3, np.float32),
}  # fmt: skip


def lines(folder: Path, *nodes: str) -> tuple[str, ...]:
    """What is said of a graph from x to y; `Add a b -> y` is a node."""
    made = []
    for text in nodes:
        words, _, output = text.partition(" -> ")
        op, *inputs = words.split()
        made.append(helper.make_node(op, inputs, output.split(), **({"to": 1} if op == "Cast" else {})))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3)) for name in ("x", "y"))
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in CONSTANTS.items()]
    graph = helper.make_graph(made, "graph", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), folder / "m.onnx")
    npu = find_device("sm8650").npu
    assert npu is not None
    return unsuited(
        folder / "m.onnx", ops=npu.ops, weights=npu.weights, activations=npu.activations, provider="qnn",
        device="sm8650",
    )  # fmt: skip


X8 = ("QuantizeLinear x s u -> xq", "DequantizeLinear xq s u -> xd")
W8 = "DequantizeLinear q s z -> wd"
Y8 = ("QuantizeLinear p s u -> pq", "DequantizeLinear pq s u -> y")
WHOLE = (*X8, W8, "MatMul xd wd -> p", *Y8)


def test_integers_from_end_to_end_are_taken(tmp_path: Path):
    assert lines(tmp_path, *WHOLE) == ()
    assert lines(tmp_path, *X8, W8, "Transpose wd -> t", "MatMul xd t -> m", "Add m b -> n", "Relu n -> p", *Y8) == ()
    assert lines(tmp_path, *(node.replace(" u ->", " l ->") for node in WHOLE)) == ()


def test_a_product_of_two_activations_has_no_weight_to_complain_of(tmp_path: Path):
    assert lines(tmp_path, "Transpose x -> t", "MatMul t x -> y") == ()


def test_operators_that_the_unit_does_not_take_are_counted_by_name(tmp_path: Path):
    (line,) = lines(tmp_path, "Erf x -> e", "Erf e -> y")
    assert line == "Erf (2) will not run on the NPU: qnn has no such operator"
    found = lines(tmp_path, "DynamicQuantizeLinear x -> xq xs xz", "Cast xq -> y")
    assert found[0].endswith("; its scales are found as it runs, so compress the model with --on sm8650")


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [(("MatMul x w -> y",), "float32"), (("Cast half -> c", "Transpose c -> t", "MatMul x t -> y"), "float16")],
)
def test_float_weights_are_told(nodes: tuple[str, ...], kind: str, tmp_path: Path):
    assert lines(tmp_path, *nodes) == (f"MatMul (1): {kind} weights, the NPU takes int8, uint8{REMEDY}",)


def test_activations_in_another_type_are_told(tmp_path: Path):
    found = lines(tmp_path, "QuantizeLinear x s z -> xq", "DequantizeLinear xq s z -> y")
    assert found == (f"QuantizeLinear (1): int8 activations, the NPU takes uint8, uint16{REMEDY}",)
    assert lines(tmp_path, "QuantizeLinear x s -> xq", "DequantizeLinear xq s -> y") == ()


@pytest.mark.parametrize(
    "tail",
    [
        ("MatMul xd wd -> y",),
        ("MatMul xd wd -> m", "Softmax m -> y"),
        ("MatMul xd wd -> m", "Add m xd -> p", *Y8),  # an addition of two activations is not the product's bias
        ("MatMul xd wd -> p", "QuantizeLinear p s u -> pq", "DequantizeLinear pq s u -> d", "Add p d -> y"),
    ],
)
def test_integers_that_become_floats_in_a_product_are_told(tail: tuple[str, ...], tmp_path: Path):
    said = f"MatMul (1): integers in, floats out, the NPU takes integers on both sides{REMEDY}"
    assert lines(tmp_path, *X8, W8, *tail) == (said,)
