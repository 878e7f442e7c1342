"""Names that Python and torch take, unlike and telling."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgepress.compress.onnx_graph import read_onnx
from edgepress.compress.onnx_names import identifiers

from .onnx_check import assert_same, floats, layers_of, write, x34


@given(st.lists(st.text(max_size=6) | st.sampled_from(["a", "a_2", "a.2", "class", "self", "1"])))
def test_identifiers_are_identifiers_and_no_two_alike(names: list[str]) -> None:
    result = identifiers(names)
    assert len(result) == len(names) == len(set(result))
    assert all(name.isidentifier() for name in result)


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
