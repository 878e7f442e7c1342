"""Notes travel inside a file of the exporter's, and a file without them, or a damaged one, has none."""

from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgepress.runtime.artifact import Port
from edgepress.runtime.tflite_notes import ENTRY, Notes, first_shapes, read_notes

from .tflite_check import Graph, build

NOTES = Notes(
    inputs=(Port("ids", "int64", ("batch", "sequence")), Port("scale", "float32", ())),
    outputs=(Port("y", "float32", ("batch", 3)),),
    pieces="batch",
    needs="ai-edge-litert",
)


def saved(path: Path, *entries: tuple[str, bytes]) -> Path:
    """A flatbuffer of TensorFlow Lite's schema with these metadata and nothing else."""
    model = schema.ModelT()
    model.version, model.buffers, model.metadata = 3, [schema.BufferT()], []
    for name, content in entries:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(content)
        model.buffers.append(buffer)
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_notes_are_read_as_they_were_written(tmp_path: Path):
    path = saved(tmp_path / "m.tflite", ("min_runtime_version", b"2.3"), (ENTRY, NOTES.to_json()), ("later", b"{}"))
    assert read_notes(path) == NOTES


@pytest.mark.parametrize("entries", [(), (("min_runtime_version", b"2.3"),)])
def test_a_file_that_somebody_else_made_has_none(tmp_path: Path, entries: tuple):
    assert read_notes(saved(tmp_path / "m.tflite", *entries)) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"inputs": 3, "outputs": [], "pieces": "", "needs": ""}'])
def test_what_is_no_note_counts_as_none(tmp_path: Path, content: bytes):
    assert read_notes(saved(tmp_path / "m.tflite", (ENTRY, content))) is None


def test_a_file_cut_anywhere_or_with_any_byte_changed_is_read_without_an_accident(tmp_path: Path):
    content = saved(tmp_path / "m.tflite", (ENTRY, NOTES.to_json())).read_bytes()
    damaged = [content[:length] for length in range(len(content))]
    damaged += [content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :] for i in range(200) for flip in (1, 255)]
    for wrong in damaged:
        (tmp_path / "m.tflite").write_bytes(wrong)
        assert isinstance(read_notes(tmp_path / "m.tflite"), Notes | None)


def test_a_missing_file_has_none(tmp_path: Path):
    assert read_notes(tmp_path / "m.tflite") is None


def test_the_inputs_of_the_first_graph_are_read_without_an_engine(tmp_path: Path):
    path = build(tmp_path / "m.tflite", Graph((1, 8), "long", names=("ids", "y")), Graph((1, 4), "short"))
    assert first_shapes(path) == {"ids": (1, 8)}
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        first_shapes(path)
    path.write_bytes(b"")
    assert first_shapes(path) == {}
