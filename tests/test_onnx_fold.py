"""What is known before a graph runs is computed once, and computes the same."""

from pathlib import Path

import pytest
import torch
from onnx import helper

from edgepress.compress.onnx_file import read_graph
from edgepress.compress.onnx_fold import fold, handed, join_biases
from edgepress.compress.onnx_graph import read_onnx
from edgepress.compress.onnx_signature import LITERAL, TENSOR, VALUE

from .onnx_check import assert_same, floats, ints, layers_of, write, x34


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


def test_folding_leaves_what_depends_on_the_inputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["w"], ["s"]),
        helper.make_node("Gather", ["s", "last"], ["n"]),
        helper.make_node("Concat", ["all", "n"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"w": floats(5, 2), "last": ints(-1), "all": ints(-1)}
    graph, _ = read_graph(write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {"y": 1}, constants))
    folded = fold(graph)
    assert [node.op for node in folded.nodes] == ["Reshape"]
    assert folded.constants == {"target": [-1, 2]}
    assert len(graph.nodes) == 4


def test_joining_needs_a_bias_of_the_products_width(tmp_path: Path) -> None:
    for shape, count in [((5,), 1), ((1,), 2), ((3, 5), 2)]:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
        constants = {"w": floats(4, 5), "b": floats(*shape)}
        path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, {"y": 1}, constants)
        assert len(join_biases(read_graph(path)[0]).nodes) == count
        assert_same(path, read_onnx(path), {"x": x34})


def test_a_constant_is_handed_over_as_its_parameter_takes_it() -> None:
    sizes, scalar, vector = torch.tensor([2, 3]), torch.tensor(0.5), torch.tensor([0.5, 1])
    assert handed(sizes, VALUE) == handed(sizes, LITERAL) == [2, 3]
    assert handed(scalar, VALUE) == handed(scalar, LITERAL) == 0.5
    assert handed(sizes, TENSOR) is sizes
    assert handed(vector, VALUE) is vector
    assert handed(vector, LITERAL) == [0.5, 1]
    assert torch.equal(handed([2, 3], TENSOR), sizes)
    long = torch.arange(100)
    assert handed(long, VALUE) is long
