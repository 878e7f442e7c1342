"""A flatbuffer is read into objects, changed, and written: what was not changed is as it was."""

from pathlib import Path

import numpy as np

from edgepress.export.tflite_file import TfliteFile, read_file
from edgepress.runtime import load
from edgepress.runtime.artifact import Port
from edgepress.runtime.tflite_notes import ENTRY, Notes, read_notes

from .tflite_check import Graph, build, ones


def test_a_file_that_is_read_and_written_computes_the_same(tmp_path: Path):
    path = build(tmp_path / "m.tflite", Graph((2, 3), "serving_default"))
    path.write_bytes(read_file(path).to_bytes())
    assert np.array_equal(load(path)(x=ones(2, 3))["y"], 2 * ones(2, 3))


def test_operators_have_their_names(tmp_path: Path):
    file = read_file(build(tmp_path / "m.tflite", Graph((2, 3)), Graph((1, 3))))
    assert [name for _, _, name in file.operators()] == ["ADD", "ADD"]
    custom = read_file(build(tmp_path / "m.tflite", Graph((2, 3)), op=32, custom=b"Nonsense"))
    assert [name for _, _, name in custom.operators()] == ["Nonsense"]


def test_metadata_is_found_by_the_runtime(tmp_path: Path):
    path = build(tmp_path / "m.tflite", Graph((1, 3), "run"))
    notes = Notes((Port("x", "float32", ("batch", 3)),), (Port("y", "float32", ("batch", 3)),), "batch")
    file = read_file(path)
    file.add_metadata("other", b"1")
    file.add_metadata(ENTRY, notes.to_json())
    path.write_bytes(file.to_bytes())
    assert read_notes(path) == notes


def test_a_constant_is_an_array_and_what_is_computed_is_none(tmp_path: Path):
    file = read_file(build(tmp_path / "m.tflite", Graph((2, 3))))
    x, y = file.model.subgraphs[0].tensors
    assert file.constant(x) is None
    y.buffer = file.add_buffer(np.arange(6, dtype=np.float32).tobytes())
    again = TfliteFile(file.to_bytes())
    found = again.constant(again.model.subgraphs[0].tensors[1])
    assert found is not None
    assert np.array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3))
