"""Inputs of a run: arrays from files, a text, or a golden sample, and one line where they cannot be had."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.compress.inputs import read_inputs
from edgepress.runtime import load
from edgepress.runtime.artifact import Artifact, describe, write_manifest
from edgepress.runtime.errors import DataError, MissingExtra, PortError, UsageError
from edgepress.runtime.golden import read_golden
from edgepress.runtime.session import LoadedModel

from .tiny_encoders import tokenizer

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def text_model(folder: Path, *inputs: str, tokens: bytes | None = None) -> LoadedModel:
    """An artifact whose output `y` is the sum of its int64 inputs [batch, sequence]."""
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "sequence")) for name in inputs]
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ("batch", "sequence"))
    names = list(inputs)
    nodes = [helper.make_node("Add", [names[0], names[0] if len(names) == 1 else names[1]], ["y"])]
    graph = helper.make_graph(nodes, "sum", ports, [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    (folder / "tokenizer.json").write_bytes(tokens or tokenizer(0).to_str().encode())
    files = (describe(folder / "model.onnx"), describe(folder / "tokenizer.json", "asset"))
    write_manifest(Artifact(folder, "onnx", files))
    return load(folder)


def test_a_golden_sample_is_the_first_one(artifact: Path):
    inputs = read_inputs(load(artifact), (), None, golden=True)
    assert inputs.keys() == {"x"}
    assert np.array_equal(inputs["x"], read_golden(artifact / "golden.npz")[0].inputs["x"])


@pytest.mark.parametrize(
    ("files", "text", "golden"),
    [((), None, False), (("x=x.npy",), "text", False), (("x=x.npy",), None, True), ((), "text", True)],
)
def test_none_and_several_are_refused(artifact: Path, files: tuple[str, ...], text: str | None, golden: bool):
    with pytest.raises(UsageError, match=r"one of --input, --text and --golden; the model takes x float32\[batch, 3\]"):
        read_inputs(load(artifact), files, text, golden)


def test_a_file_without_a_manifest_has_neither_golden_samples_nor_a_tokenizer(linear: Path):
    with pytest.raises(UsageError, match=r"has no golden samples; give --input NAME=FILE\.npy"):
        read_inputs(load(linear), (), None, golden=True)
    with pytest.raises(UsageError, match=r"has no tokenizer\.json; give --input NAME=FILE\.npy"):
        read_inputs(load(linear), (), "text", golden=False)


def test_arrays_come_from_files_with_and_without_a_name(linear: Path, tmp_path: Path):
    model = load(linear)
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "all.npz", x=X)
    for item in (f"x={tmp_path / 'x.npy'}", f"{tmp_path / 'x.npy'}", f"{tmp_path / 'all.npz'}"):
        inputs = read_inputs(model, (item,), None, golden=False)
        assert inputs.keys() == {"x"}
        assert inputs["x"].dtype == X.dtype
        assert np.array_equal(inputs["x"], X)
        assert model(**inputs)["y"].shape == (2, 2)


def test_several_files_make_one_call(tmp_path: Path):
    model = text_model(tmp_path, "a", "b")
    np.save(tmp_path / "a.npy", np.array([[1, 2]]))
    np.savez(tmp_path / "b.npz", b=np.array([[3, 4]]))
    inputs = read_inputs(model, (f"a={tmp_path / 'a.npy'}", str(tmp_path / "b.npz")), None, golden=False)
    assert model(**inputs)["y"].tolist() == [[4, 6]]


def test_a_path_may_hold_an_equals_sign(linear: Path, tmp_path: Path):
    folder = tmp_path / "rate=0.1"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    for item in (f"x={folder / 'x.npy'}", str(folder / "x.npy")):
        assert np.array_equal(read_inputs(load(linear), (item,), None, golden=False)["x"], X)


def test_an_array_whose_input_cannot_be_told_is_refused(tmp_path: Path):
    model = text_model(tmp_path, "a", "b")
    np.save(tmp_path / "a.npy", X)
    for item in (f"{tmp_path / 'a.npy'}", f"={tmp_path / 'a.npy'}"):
        with pytest.raises(UsageError, match=r"expected NAME=FILE.npy for one array, or FILE.npz for arrays by name"):
            read_inputs(model, (item,), None, golden=False)


def test_a_name_in_front_of_many_arrays_is_refused(linear: Path, tmp_path: Path):
    np.savez(tmp_path / "all.npz", x=X)
    with pytest.raises(UsageError, match=r"--input x=.*all\.npz: expected NAME=FILE\.npy"):
        read_inputs(load(linear), (f"x={tmp_path / 'all.npz'}",), None, golden=False)


def test_an_array_that_does_not_fit_is_refused_by_the_model(linear: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    model = load(linear)
    with pytest.raises(PortError, match=r"'x' is float64\[2, 3\]; expected x float32\[batch, 3\]"):
        model(**read_inputs(model, (str(tmp_path / "x.npy"),), None, golden=False))
    with pytest.raises(PortError, match="there is no input 'z'"):
        model(**read_inputs(model, (f"z={tmp_path / 'x.npy'}",), None, golden=False))


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_is_missing_or_damaged_is_one_line(linear: Path, tmp_path: Path, name: str, content: bytes | None):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_inputs(load(linear), (f"x={tmp_path / name}",), None, golden=False)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_never_loaded(linear: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="without objects"):
        read_inputs(load(linear), (f"x={tmp_path / 'x.npy'}",), None, golden=False)


@pytest.mark.parametrize("names", [("input_ids", "attention_mask"), ("attention_mask", "input_ids"), ("input_ids",)])
def test_a_text_goes_through_the_tokenizer_that_ships(tmp_path: Path, names: tuple[str, ...]):
    model = text_model(tmp_path, *names)
    inputs = read_inputs(model, (), "w0 w1 unheard", golden=False)
    expected = {"input_ids": [[2, 5, 6, 4, 3]], "attention_mask": [[1, 1, 1, 1, 1]]}
    assert {name: array.tolist() for name, array in inputs.items()} == {name: expected[name] for name in names}
    assert model(**inputs)["y"].shape == (1, 5)


def test_a_text_does_not_fill_an_input_that_is_not_made_of_tokens(tmp_path: Path):
    model = text_model(tmp_path, "input_ids", "speaker")
    with pytest.raises(PortError, match="missing the input 'speaker'"):
        model(**read_inputs(model, (), "w0", golden=False))


def test_a_tokenizer_that_is_none_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer that can be read: .*; export"):
        read_inputs(text_model(tmp_path, "input_ids", tokens=b"{}"), (), "w0", golden=False)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = text_model(tmp_path, "input_ids")
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match=r"pip install 'edgepress\[text\]'"):
        read_inputs(model, (), "w0", golden=False)
