"""Notes: what a `.tflite` file says of itself beyond its fixed shapes, kept as metadata inside the file.

A flatbuffer is tables of offsets. The way here is Model -> metadata -> the entry `edgepress` -> its buffer, which holds
JSON; the field numbers are those of TensorFlow Lite's schema. Whatever is damaged on that way counts as no notes: the
engine, which verifies the whole file, says what is wrong with it.
"""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Port
from .errors import PortError

ENTRY = "edgepress"
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_MODEL_GRAPHS, _GRAPH_TENSORS, _GRAPH_INPUTS = 2, 0, 1
_TENSOR_SHAPE, _TENSOR_NAME = 0, 3
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
_DAMAGE = (OSError, struct.error, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Notes:
    """The ports as a caller sees them, free axes by name, and how the file's fixed shapes serve them.

    Along the axis `pieces` a call is cut into pieces; the other free axes are padded with zeros up to the next length
    that a signature has, and outputs are cut back. `needs` is the library that computes the file rightly, where
    not each does.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    pieces: str = ""
    needs: str = ""

    def to_json(self) -> bytes:
        """What the file holds."""
        return json.dumps(asdict(self)).encode()


def sizes_of(ports: Sequence[Port], inputs: Mapping[str, Any]) -> dict[str, int]:
    """The length of each free axis in a call. Raises PortError where two inputs differ in one."""
    sizes: dict[str, int] = {}
    for port in ports:
        for axis, size in zip(port.shape, inputs[port.name].shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise PortError(f"input {port.name!r} has {axis} {size}, another one {sizes[axis]}; expected the same")
    return sizes


def cut_back(output: np.ndarray, port: Port, sizes: Mapping[str, int]) -> np.ndarray:
    """An output of fixed shape, cut to the lengths that its free axes have in the call."""
    return output[tuple(slice(sizes[axis]) if isinstance(axis, str) else slice(None) for axis in port.shape)]


def read_notes(path: Path) -> Notes | None:
    """The notes of a file; None where it has none, as one that somebody else made."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text = _metadata(data, ENTRY)
        return None if text is None else _parse(json.loads(text))
    except _DAMAGE:
        return None


def first_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The inputs of the file's first graph, by their tensors' names; empty where the file is damaged."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (root,) = struct.unpack_from("<I", data, 0)
            graph = next(_tables(data, root, _MODEL_GRAPHS))
            tensors = list(_tables(data, graph, _GRAPH_TENSORS))
            inputs = [tensors[index] for index in _integers(data, graph, _GRAPH_INPUTS)]
            return {_bytes(data, one, _TENSOR_NAME).decode(): _integers(data, one, _TENSOR_SHAPE) for one in inputs}
    except (*_DAMAGE, StopIteration):
        return {}


def _parse(raw: dict[str, Any]) -> Notes:
    inputs, outputs = (
        tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in raw[side]) for side in ("inputs", "outputs")
    )
    return Notes(inputs, outputs, str(raw["pieces"]), str(raw["needs"]))


def _metadata(data: mmap.mmap, entry: str) -> bytes | None:
    (root,) = struct.unpack_from("<I", data, 0)
    buffers = list(_tables(data, root, _MODEL_BUFFERS))
    for table in _tables(data, root, _MODEL_METADATA):
        if _bytes(data, table, _METADATA_NAME) == entry.encode():
            at = _field(data, table, _METADATA_BUFFER)
            (index,) = struct.unpack_from("<I", data, at) if at else (0,)
            return _bytes(data, buffers[index], _BUFFER_DATA)
    return None


def _field(data: mmap.mmap, table: int, number: int) -> int:
    """Where a table's field lies; 0 where it has not got it."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    slot = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", data, table - back + slot) if slot < size else (0,)
    return table + offset if offset else 0


def _vector(data: mmap.mmap, table: int, number: int) -> tuple[int, int]:
    """Where a vector's elements begin, and how many there are."""
    at = _field(data, table, number)
    if not at:
        return 0, 0
    start = at + struct.unpack_from("<I", data, at)[0]
    (count,) = struct.unpack_from("<I", data, start)
    return start + 4, count


def _tables(data: mmap.mmap, table: int, number: int) -> Iterator[int]:
    start, count = _vector(data, table, number)
    for at in range(start, start + 4 * count, 4):
        yield at + struct.unpack_from("<I", data, at)[0]


def _integers(data: mmap.mmap, table: int, number: int) -> tuple[int, ...]:
    start, count = _vector(data, table, number)
    return struct.unpack_from(f"<{count}i", data, start)


def _bytes(data: mmap.mmap, table: int, number: int) -> bytes:
    start, count = _vector(data, table, number)
    return data[start : start + count]
