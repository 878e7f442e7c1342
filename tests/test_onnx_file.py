"""Files: what is damaged, elsewhere or of another kind is refused in one line."""

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgepress.compress.onnx_file import read_graph
from edgepress.compress.onnx_graph import read_onnx
from edgepress.runtime.errors import ModelError, UnsupportedError

from .onnx_check import assert_same, floats, ints, random_settings, write


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
    message = ""
    try:
        read_onnx(path)
    except (ModelError, UnsupportedError) as error:
        message = str(error)
    assert "\n" not in message


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
    with pytest.raises(ModelError, match=r"own folder|missing"):
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


def test_bfloat16_and_typed_fields_are_read(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor("b", TensorProto.BFLOAT16, (3,), [1.5, -2.0, 0.25]),
        helper.make_tensor("h", TensorProto.FLOAT16, (2,), [0.5, 3.0]),
        helper.make_tensor("i", TensorProto.INT8, (2,), [-1, 7]),
    ]
    node = helper.make_node("Identity", ["x"], ["y"])
    port = helper.make_tensor_value_info("x", 1, (2,)), helper.make_tensor_value_info("y", 1, (2,))
    graph = helper.make_graph([node], "g", [port[0]], [port[1]], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    constants = read_graph(tmp_path / "m.onnx")[0].constants
    assert constants["b"].dtype == torch.bfloat16
    assert {name: value.tolist() for name, value in constants.items()} == {
        "b": [1.5, -2.0, 0.25], "h": [0.5, 3.0], "i": [-1, 7]
    }  # fmt: skip


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.FLOAT8E4M3FN, TensorProto.COMPLEX64])
def test_a_port_of_another_type_is_refused(kind: int, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(UnsupportedError, match="'x', no tensor of a type"):
        read_graph(write(tmp_path / "m.onnx", [node], {"x": (kind, (2,))}, {"y": kind}, {}))


def test_functions_in_the_file_are_written_out(tmp_path: Path) -> None:
    double = helper.make_function(
        "local", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    node = helper.make_node("Double", ["x"], ["y"], domain="local")
    ports = [helper.make_tensor_value_info(name, 1, (2,)) for name in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[double], ir_version=9), tmp_path / "m.onnx")
    assert_same(tmp_path / "m.onnx", read_onnx(tmp_path / "m.onnx"), {"x": floats(2)})


def test_ranks_are_inferred_where_the_file_does_not_tell_them(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Flatten", ["a"], ["y"])]
    graph, _ = read_graph(write(tmp_path / "m.onnx", nodes, {"x": (1, ("n", 3, 4))}, {"y": 1}, {}))
    assert graph.ranks["a"] == 3
