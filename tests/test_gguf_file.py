"""The reader of GGUF headers agrees with the official one, and whatever is no whole file ends in one line."""

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import example, given
from hypothesis import strategies as st

from edgepress.runtime.errors import ArtifactError
from edgepress.runtime.gguf_file import TYPES, GgufFile, read_gguf

ABOUT = {
    "small.flag": True,
    "small.count": 7,
    "small.share": 0.5,
    "small.text": "ünïcode 🦙",
    "small.words": ["a", "", "ß"],
    "small.numbers": [1, 2, 3],
    "small.none": None,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of value, and three tensors, one of them quantized."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    rows = np.arange(128, dtype=np.float32).reshape(2, 64)
    tensors = {"a.weight": rows, "b": np.ones(3, np.float16), "c.weight": rows}
    writer = gguf.GGUFWriter(path, "small")
    writer.add_int8("small.int8", -3)
    writer.add_int64("small.int64", -(2**40))
    writer.add_float64("small.float64", 1e300)
    for key, value in ABOUT.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add.get(type(value), writer.add_array)(key, value)
    for name, array in tensors.items():
        quantized = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0) if name == "c.weight" else array
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "c.weight" else None
        writer.add_tensor(name, quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def message(path: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        read_gguf(path)
    said = str(error.value)
    assert "\n" not in said
    return said


def read_or_refused(path: Path) -> GgufFile | None:
    """None where it was refused in one line; any other exception fails the test."""
    try:
        return read_gguf(path)
    except ArtifactError as error:
        said = str(error)
    assert "\n" not in said
    return None


def header(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, sizes: tuple[int, ...], kind: int = 0, at: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, at)


def test_values_are_those_that_were_written(small: Path):
    metadata = read_gguf(small).metadata
    for name, value in ABOUT.items():
        if value is not None:
            found = metadata[name]
            assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert (metadata["small.int8"], metadata["small.int64"]) == (-3, -(2**40))
    assert metadata["small.float64"] == 1e300
    assert "small.none" not in metadata
    assert metadata.count("small.words") == 3
    assert metadata.count("small.text") == metadata.count("absent") == 0
    assert len(metadata) == len(list(metadata))


def test_tensors_lie_where_the_official_reader_finds_them(small: Path, llama, minilm_gguf: Path):
    for path in (small, llama[0], minilm_gguf):
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
        for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
            assert (mine.offset, mine.bytes, mine.size) == (other.data_offset, other.n_bytes, other.n_elements)
            assert (mine.type, mine.shape[::-1]) == (other.tensor_type.name, tuple(other.shape))
        assert [field for field in theirs.fields if not field.startswith("GGUF.")] == list(ours.metadata)


def test_the_architecture_has_settings_of_its_own(llama):
    file = read_gguf(llama[0])
    assert file.architecture == "llama"
    assert file.setting("block_count") == 2
    assert file.setting("absent", 5) == 5
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 512


def test_every_type_that_the_official_package_knows_is_known():
    for kind, (block, size) in GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # the package tells 40 bytes; ggml's own has two halves and 32 bytes, and is in no file
            assert TYPES[int(kind)] == (kind.name, block, size)


def test_a_file_cut_anywhere_is_refused(small: Path, tmp_path: Path):
    content = small.read_bytes()
    for length in range(0, max(t.offset + t.bytes for t in read_gguf(small).tensors)):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        assert "is no whole GGUF file: " in message(tmp_path / "cut.gguf")


FAULTS = {
    b"": "it is empty",
    b"PK\3\4 a zip": r"it begins with b'PK\\x03\\x04', expected b'GGUF'",
    header(version=1): "it is of version 1, expected little-endian and version 2 or 3",
    header(version=3 << 24): "it is big-endian, expected little-endian",
    header(keys=2**63): "it tells of 9223372036854775808 keys, where 65536 is the most",
    header(tensors=2**40): "it tells of 1099511627776 tensors, where 262144 is the most",
    header(keys=1): "key 0 takes 8 bytes at byte 24, where 0 are left",
    header(struct.pack("<Q", 2**63), keys=1): "key 0 takes 9223372036854775808 bytes at byte 32, where 0 are left",
    header(key("", 4, b"\0" * 4), keys=1): "key 0 is empty",
    header(text(b"\xff"), keys=1): "key 0 is no UTF-8 at byte 32",
    header(key("a", 4, b"\0" * 4) * 2, keys=2): "key 1 is there twice: 'a'",
    header(key("a", 13, b""), keys=1): "the value of 'a' has the type 13, which GGUF does not have",
    header(key("a", 9, struct.pack("<IQ", 9, 1)), keys=1): "has the type 9, which GGUF does not have in arrays",
    header(key("a", 9, struct.pack("<IQ", 4, 2**62)), keys=1): "the value of 'a' takes 18446744073709551616 bytes",
    header(key("a", 9, struct.pack("<IQ", 8, 2**62)), keys=1): "strings in the value of 'a', where 8388608 is the most",
    header(key("a", 8, struct.pack("<Q", 99)), keys=1): "the value of 'a' takes 99 bytes",
    header(key("general.alignment", 4, struct.pack("<I", 0)), keys=1): "alignment is 0, expected a power of two",
    header(key("general.alignment", 4, struct.pack("<I", 48)), keys=1): "alignment is 48, expected a power of two",
    header(key("general.alignment", 8, text("x")), keys=1): "general.alignment is x, expected a power of two",
    header(tensor("", (4,)), tensors=1): "tensor 0 is called ''",
    header(tensor("x" * 64, (4,)), tensors=1): "expected another name each, of 1 to 63 bytes",
    header(tensor("a", (4,)), tensor("a", (4,)), tensors=2): "tensor 1 is called 'a', expected another name each",
    header(tensor("a", ()), tensors=1): "the tensor 'a' has 0 axes, expected 1 to 4",
    header(tensor("a", (1,) * 5), tensors=1): "the tensor 'a' has 5 axes, expected 1 to 4",
    header(tensor("a", (0, 4)), tensors=1): r"the tensor 'a' has the shape \(4, 0\)",
    header(tensor("a", (2**40, 2**40)), tensors=1): "the tensor 'a' has the shape",
    header(tensor("a", (4,), kind=4), tensors=1): "the tensor 'a' has the type 4, which is not known",
    header(tensor("a", (48,), kind=8), tensors=1): "the tensor 'a' has rows of 48, Q8_0 has blocks of 32",
    header(tensor("a", (4,), at=32), tensors=1): "the tensor 'a' begins at byte 96, expected 64",
    header(tensor("a", (2**50,)), tensors=1): "the tensor 'a' ends at byte",
}  # fmt: skip


@pytest.mark.parametrize("content", FAULTS, ids=FAULTS.values())
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "m.gguf").write_bytes(content)
    said = message(tmp_path / "m.gguf")
    assert re.search(FAULTS[content], said), said
    assert said.endswith("; copy, download or export it again")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path):
    assert "cannot be read (No such file or directory)" in message(tmp_path / "m.gguf")


spots = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6)


@given(spots)
@example([(8, 255), (15, 255)])
def test_a_header_with_other_bytes_is_read_or_refused(small: Path, tmp_path: Path, spots: list[tuple[int, int]]):
    content = bytearray(small.read_bytes())
    for at, value in spots:
        content[at % len(content)] = value
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    if (file := read_or_refused(path)) is None:
        return
    for name in file.metadata:
        _ = file.metadata[name]
    assert all(tensor.offset + tensor.bytes <= len(content) for tensor in file.tensors)


@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_are_read_or_refused(tmp_path: Path, rest: bytes):
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + rest)
    read_or_refused(path)
