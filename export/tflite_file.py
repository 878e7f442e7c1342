"""A `.tflite` flatbuffer as objects, to be looked into and changed: what the converter leaves, before it is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
# A flatbuffer's offsets have 31 bits.
MAX_BYTES = 2_000_000_000

DTYPES = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT16: np.dtype(np.int16),
    schema.TensorType.BOOL: np.dtype(np.bool_),
}
_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


class TfliteFile:
    """The tables of a file; `model` is what the schema makes of them."""

    def __init__(self, content: bytes) -> None:
        self.model: Any = schema.ModelT.InitFromPackedBuf(content, 0)

    def to_bytes(self) -> bytes:
        """The file."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def operators(self) -> Iterator[tuple[Any, Any, str]]:
        """Each operator with its subgraph and its name, as `FULLY_CONNECTED`."""
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                yield graph, operator, operator_name(self.model.operatorCodes[operator.opcodeIndex])

    def constant(self, tensor: Any) -> np.ndarray | None:
        """What a constant holds; None where a tensor is computed, or has no dtype of NumPy's."""
        data = self.model.buffers[tensor.buffer].data if tensor.buffer else None
        if data is None or tensor.type not in DTYPES:
            return None
        return np.frombuffer(bytes(data), DTYPES[tensor.type]).reshape(shape(tensor))

    def add_buffer(self, content: bytes) -> int:
        """Keep bytes in a new buffer; returns its number."""
        buffer: Any = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def add_metadata(self, name: str, content: bytes) -> None:
        """Keep bytes that whoever knows the name can read."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self.add_buffer(content)
        self.model.metadata = [*(self.model.metadata or []), entry]


def operator_name(code: Any) -> str:
    """The name of an operator code; that of a custom operator as it is."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM and code.customCode:
        return code.customCode.decode()
    return _NAMES.get(number, f"operator {number}")


def shape(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape; () for a scalar."""
    return () if tensor.shape is None else tuple(map(int, tensor.shape))


def read_file(path: Path) -> TfliteFile:
    """Read a file that an engine has opened, and so verified."""
    return TfliteFile(path.read_bytes())
