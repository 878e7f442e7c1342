"""A `.tflite` flatbuffer as objects, to be looked into and changed: what the converter leaves, before it is written."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
BLOCKWISE = schema.QuantizationDetails.BlockwiseQuantization
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
    """The tables of a file: `model` is what the schema makes of them, `named` the tensors that layers gave a name."""

    def __init__(self, content: bytes) -> None:
        self.model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
        self.named: set[bytes] = set()

    def to_bytes(self) -> bytes:
        """The file."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def operators(self) -> Iterator[tuple[Any, Any, str]]:
        """Each operator with its subgraph and its name, as `FULLY_CONNECTED`."""
        for graph in self.model.subgraphs:
            for operator in graph.operators:
                yield graph, operator, self.name_of(operator)

    def name_of(self, operator: Any) -> str:
        """An operator's name."""
        return operator_name(self.model.operatorCodes[operator.opcodeIndex])

    def code(self, operator: int, *, version: int) -> int:
        """The number under which a subgraph names a builtin operator."""
        for number, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == operator and code.version >= version:
                return number
        added: Any = schema.OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = operator, min(operator, 127), version
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

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

    def drop_unread(self) -> None:
        """Drop the tensors and buffers that nothing reads any more."""
        for number, graph in enumerate(self.model.subgraphs):
            signatures = [s for s in self.model.signatureDefs or [] if s.subgraphIndex == number]
            _drop_tensors(graph, [entry for s in signatures for entry in (*s.inputs, *s.outputs)])
        holders = [tensor for graph in self.model.subgraphs for tensor in graph.tensors] + (self.model.metadata or [])
        places = _places({0, *(holder.buffer for holder in holders)})
        for holder in holders:
            holder.buffer = places[holder.buffer]
        self.model.buffers = [self.model.buffers[number] for number in places]

    def add_metadata(self, name: str, content: bytes) -> None:
        """Keep bytes that whoever knows the name can read."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self.add_buffer(content)
        self.model.metadata = [*(self.model.metadata or []), entry]


def _drop_tensors(graph: Any, entries: Sequence[Any]) -> None:
    """Drop what no operator, port or block scale of a subgraph names; `entries` are those of its signatures."""
    used = {int(i) for o in graph.operators for i in (*o.inputs, *o.outputs, *_listed(o.intermediates)) if i >= 0}
    used |= {int(i) for i in (*graph.inputs, *graph.outputs)}
    used |= {entry.tensorIndex for entry in entries}
    used |= {details.scales for i in used if (details := _blocks(graph.tensors[i])) is not None}
    places = _places(used)
    graph.tensors = [graph.tensors[number] for number in places]
    for operator in graph.operators:
        operator.inputs, operator.outputs = (
            [places.get(int(i), -1) for i in side] for side in (operator.inputs, operator.outputs)
        )
        operator.intermediates = [places.get(int(i), -1) for i in _listed(operator.intermediates)] or None
    graph.inputs, graph.outputs = ([places[int(i)] for i in side] for side in (graph.inputs, graph.outputs))
    for entry in entries:
        entry.tensorIndex = places[entry.tensorIndex]
    for tensor in graph.tensors:
        if (details := _blocks(tensor)) is not None:
            details.scales = places[details.scales]


def _blocks(tensor: Any) -> Any:
    """What a tensor of blocks says of them; None for any other."""
    told = tensor.quantization
    return told.details if told is not None and told.detailsType == BLOCKWISE else None


def _places(used: Iterable[int]) -> dict[int, int]:
    """Old number -> new number, in their order."""
    return {number: place for place, number in enumerate(sorted(used))}


def _listed(numbers: Any) -> list[int]:
    return [] if numbers is None else list(numbers)


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
