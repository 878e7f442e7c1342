"""The header of a GGUF file, read with care: magic, version, counts, then metadata, then where each tensor lies.

    "GGUF", u32 version, u64 tensors, u64 keys, (key, u32 type, value)*, (name, u32 n, u64[n] sizes, u32 type, u64 at)*

Every count, length and offset is held against the file's size before it is followed, so that a file which is cut,
damaged or made to harm ends in one line, before llama.cpp (which aborts the process on some of them) sees it. Values
are decoded when they are asked for: a vocabulary of 150,000 words is walked over, and not built.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArtifactError

# ggml's number of a tensor's type -> its name, weights in a block, bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
# GGUF's number of a value's type -> NumPy's name; strings and arrays have no fixed size.
_SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_VERSIONS = (2, 3)
_LONGEST_NAME = 63  # bytes; what ggml has room for
# More than any model has: whoever writes more means to keep the reader busy.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS = 65_536, 262_144, 8_388_608


@dataclass(frozen=True)
class Tensor:
    """One tensor: its type as ggml names it, its shape with the rows first, and the bytes of the file that hold it."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


class Metadata(Mapping[str, Any]):
    """The values by key, decoded when asked for: numbers, booleans, strings, NumPy arrays, lists of strings."""

    def __init__(self, header: bytes, found: Mapping[str, tuple[int, int, int]]) -> None:
        self._header, self._found = header, found

    def __getitem__(self, key: str) -> Any:
        kind, count, at = self._found[key]
        if kind == _STRING:
            texts = list(_strings(self._header, at, max(count, 1)))
            return texts if count >= 0 else texts[0]
        values = np.frombuffer(self._header, _SCALARS[kind], max(count, 1) if count else 0, at)
        return values if count >= 0 else values[0].item()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def count(self, key: str) -> int:
        """How many elements an array has; 0 where there is none of this key. Decodes nothing."""
        return max(self._found.get(key, (0, 0, 0))[1], 0)


@dataclass(frozen=True)
class GgufFile:
    """What the header tells."""

    path: Path
    version: int
    metadata: Metadata
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """`llama`, `bert`, …; "" where the file does not tell."""
        name = self.metadata.get("general.architecture", "")
        return name if isinstance(name, str) else ""

    @property
    def has_tokenizer(self) -> bool:
        """False for a file that takes ids only."""
        return self.metadata.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab")

    def setting(self, name: str, default: Any = None) -> Any:
        """The architecture's own value: `setting("context_length")` is that of `llama.context_length`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


class _Damaged(Exception):  # noqa: N818 - never leaves this file
    """What is wrong, without the path."""


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header. Raises ArtifactError, in one line, for whatever is no whole GGUF file.

    >>> read_gguf(Path("tiny.gguf")).tensors[0]
    Tensor(name='token_embd.weight', type='Q8_0', shape=(512, 64), offset=18336, bytes=34816)
    """
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise _Damaged("it is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(path, data)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except _Damaged as error:
        raise ArtifactError(f"{path} is no whole GGUF file: {error}; copy, download or export it again") from error


@dataclass
class _Cursor:
    """A place in the file that goes forward; raises _Damaged where the file ends first."""

    data: mmap.mmap
    at: int = 0

    def skip(self, size: int, what: str) -> int:
        """Go on by `size` bytes; returns where they begin."""
        start, left = self.at, len(self.data) - self.at
        if size > left:
            raise _Damaged(f"{what} takes {size} bytes at byte {start}, where {left} are left")
        self.at = start + size
        return start

    def number(self, code: str, what: str) -> int:
        return struct.unpack_from(code, self.data, self.skip(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        size = self.number("<Q", what)
        start = self.skip(size, what)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Damaged(f"{what} is no UTF-8 at byte {start}") from error


def _read(path: Path, data: mmap.mmap) -> GgufFile:
    if data[:4] != b"GGUF":
        raise _Damaged(f"it begins with {data[:4]!r}, expected b'GGUF'")
    cursor = _Cursor(data, 4)
    version = cursor.number("<I", "the version")
    if version not in _VERSIONS:
        turned = int.from_bytes(version.to_bytes(4, "big"), "little") in _VERSIONS
        told = "big-endian" if turned else f"of version {version}"
        raise _Damaged(f"it is {told}, expected little-endian and version 2 or 3")
    tensors = _bounded(cursor.number("<Q", "the number of tensors"), _MOST_TENSORS, "tensors")
    keys = _bounded(cursor.number("<Q", "the number of keys"), _MOST_KEYS, "keys")
    found: dict[str, tuple[int, int, int]] = {}
    for index in range(keys):
        key = cursor.text(f"key {index}")
        if not key or key in found:
            raise _Damaged(f"key {index} is {'there twice: ' + repr(key)[:80] if key else 'empty'}")
        found[key] = _value(cursor, f"the value of {key[:80]!r}")
    before = cursor.at
    metadata = Metadata(data[:before], found)
    return GgufFile(path, version, metadata, tuple(_tensors(cursor, tensors, _alignment(metadata, found))))


def _bounded(count: int, most: int, what: str) -> int:
    if count > most:
        raise _Damaged(f"it tells of {count} {what}, where {most} is the most")
    return count


def _value(cursor: _Cursor, what: str) -> tuple[int, int, int]:
    """Step over a value: its type, its number of elements (-1: it is no array), where it begins."""
    kind, count = cursor.number("<I", what), -1
    if kind == _ARRAY:
        kind, count = cursor.number("<I", what), cursor.number("<Q", what)
    start = cursor.at
    if kind == _STRING:
        for _ in range(_bounded(max(count, 1) if count else 0, _MOST_STRINGS, f"strings in {what}")):
            cursor.skip(cursor.number("<Q", what), what)
    elif kind in _SCALARS:
        cursor.skip(np.dtype(_SCALARS[kind]).itemsize * abs(count), what)
    else:
        raise _Damaged(f"{what} has the type {kind}, which GGUF does not have{' in arrays' if count >= 0 else ''}")
    return kind, count, start


def _alignment(metadata: Metadata, found: Mapping[str, tuple[int, int, int]]) -> int:
    if "general.alignment" not in found:
        return 32
    kind, count, _ = found["general.alignment"]
    value = metadata["general.alignment"]
    if kind != _UINT32 or count >= 0 or value < 1 or value & (value - 1):
        raise _Damaged(f"general.alignment is {value}, expected a power of two as uint32")
    return value


def _tensors(cursor: _Cursor, count: int, alignment: int) -> Iterator[Tensor]:
    names: set[str] = set()
    told = [_tensor(cursor, index, names) for index in range(count)]
    start = expected = -(-cursor.at // alignment) * alignment
    for name, kind, shape, offset in told:
        label, weights, size = TYPES[kind]
        taken = math.prod(shape) // weights * size
        if start + offset != expected:
            raise _Damaged(f"the tensor {name!r} begins at byte {start + offset}, expected {expected}")
        if expected + taken > len(cursor.data):
            end = expected + taken
            raise _Damaged(f"the tensor {name!r} ends at byte {end}, the file has {len(cursor.data)}")
        yield Tensor(name, label, shape, expected, taken)
        expected += -(-taken // alignment) * alignment


def _tensor(cursor: _Cursor, index: int, names: set[str]) -> tuple[str, int, tuple[int, ...], int]:
    what = f"tensor {index}"
    name = cursor.text(f"the name of {what}")
    if not name or len(name.encode()) > _LONGEST_NAME or name in names or "\0" in name:
        raise _Damaged(f"{what} is called {name[:80]!r}, expected another name each, of 1 to {_LONGEST_NAME} bytes")
    names.add(name)
    axes = cursor.number("<I", what)
    if not 1 <= axes <= 4:
        raise _Damaged(f"the tensor {name!r} has {axes} axes, expected 1 to 4")
    sizes = struct.unpack_from(f"<{axes}Q", cursor.data, cursor.skip(8 * axes, what))
    kind = cursor.number("<I", what)
    if kind not in TYPES:
        raise _Damaged(f"the tensor {name!r} has the type {kind}, which is not known")
    if not all(sizes) or math.prod(sizes) >= 2**60:
        raise _Damaged(f"the tensor {name!r} has the shape {sizes[::-1]}")
    if sizes[0] % TYPES[kind][1]:
        raise _Damaged(f"the tensor {name!r} has rows of {sizes[0]}, {TYPES[kind][0]} has blocks of {TYPES[kind][1]}")
    return name, kind, sizes[::-1], cursor.number("<Q", what)


def _strings(header: bytes, at: int, count: int) -> Iterator[str]:
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", header, at)
        at += 8 + size
        yield header[at - size : at].decode("utf-8", "replace")
