"""What no input decides is computed once: the numbers stay, and weights in a small form stay small."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgepress.export.folded import fold

X = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


def graph(nodes, shape=(1, 3, 4), out=None, **constants) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("y", out)))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "graph", [x], [y], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


SIZES = [
    node("Shape", "x", "rows", start=1, end=2),
    node("Concat", "one rows rest", "size", axis=0),
    node("Reshape", "x size", "flat"),
    node("Shape", "flat", "all"),  # its size is known when that of Reshape is
    node("Cast", "all", "floats", to=TensorProto.FLOAT),
    node("ReduceSum", "floats", "sum", keepdims=0),
    node("Mul", "flat sum", "y"),
]


def test_sizes_are_known_where_axes_are_fixed_and_what_is_made_of_them():
    model = graph(SIZES, one=[1], rest=[-1])
    folded = fold(model)
    assert ops(folded) == {"Reshape": 1, "Mul": 1}
    assert np.array_equal(run(folded), run(model))
    assert {tensor.name for tensor in folded.graph.initializer} == {"size", "sum"}
    assert len(model.graph.node) == len(SIZES)


def test_a_free_axis_leaves_its_sizes_to_the_run():
    folded = fold(graph(SIZES, shape=(1, "rows", 4), one=[1], rest=[-1]))
    assert ops(folded) == ops(graph(SIZES))


def test_integers_of_weights_and_chance_stay():
    nodes = [
        node("DequantizeLinear", "w scale zero", "weight"),
        node("RandomNormal", "", "noise", shape=[4, 2], dtype=1),
        node("Add", "weight noise", "noisy"),
        node("MatMul", "x noisy", "y"),
    ]
    model = graph(nodes, w=np.ones((4, 2), np.int8), scale=np.float32(0.1), zero=np.int8(0))
    assert ops(fold(model)) == ops(model)


def test_a_large_constant_does_not_grow_and_a_small_one_may():
    half = np.ones((4, 20_000), np.float16)
    nodes = [node("Cast", "half", "weight", to=TensorProto.FLOAT), node("MatMul", "x weight", "y")]
    assert ops(fold(graph(nodes, half=half))) == {"Cast": 1, "MatMul": 1}
    assert ops(fold(graph(nodes, half=half[:, :8]))) == {"MatMul": 1}


def test_a_node_without_a_first_output_ends_the_folding():
    pool = helper.make_node("Split", ["two"], ["", "b"], num_outputs=2)
    model = graph([pool, node("Add", "x b", "y")], two=np.ones(2, np.float32))
    assert ops(fold(model)) == {"Split": 1, "Add": 1}


def test_an_output_and_a_node_with_a_graph_inside_stay_and_it_finds_what_it_reads():
    inner = helper.make_graph([node("Mul", "x two", "z")], "then", [], [onnx.ValueInfoProto(name="z")])
    other = helper.make_graph([node("Add", "x two", "w")], "else", [], [onnx.ValueInfoProto(name="w")])
    nodes = [
        node("Add", "one one", "two"),
        node("Greater", "two one", "larger"),
        node("If", "larger", "y", then_branch=inner, else_branch=other),
    ]
    model = graph(nodes, one=np.float32(1))
    folded = fold(model)
    assert ops(folded) == {"If": 1}
    assert {tensor.name for tensor in folded.graph.initializer} == {"larger", "two"}
    assert np.array_equal(run(folded), 2 * X)
    constant = graph([node("Add", "one one", "y")], one=np.float32(1))
    assert ops(fold(constant)) == {"Add": 1}
