"""Write an ONNX file weight by weight: `ir.save` holds all of them four times, this one of them once more.

A file is a ModelProto, protobuf's wire format: a message is a sequence of fields in any order, and a field that is a
message, a string or bytes is its tag, its length and its content.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def save(model: ir.Model, path: Path) -> None:
    """Write the model as one file. The model is not changed."""
    weights = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        proto = ir.serde.serialize_model(model)
    finally:
        model.graph.initializers.update(weights)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    named = {name: value.const_value for name, value in weights.items() if value.const_value is not None}
    tensors, heads = list(named.values()), [_head(name, tensor) for name, tensor in named.items()]
    size = len(graph) + sum(len(part) for head in heads for part in head)
    size += sum(tensor.nbytes for tensor in tensors if _is_raw(tensor))
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(_field(_GRAPH, size))
        file.write(graph)
        for tensor, head in zip(tensors, heads, strict=True):
            file.writelines(head)
            if _is_raw(tensor):
                file.write(tensor.tobytes())


def _is_raw(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING


def _head(name: str, tensor: ir.TensorProtocol) -> tuple[bytes, bytes]:
    """The start of an initializer's field, and its message up to the numbers, which follow as they lie in memory."""
    if not _is_raw(tensor):
        proto = ir.serde.serialize_tensor(tensor)
        proto.name = name
        message = proto.SerializeToString()
        return _field(_INITIALIZER, len(message)), message
    described = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    message = described.SerializeToString() + _field(_RAW_DATA, tensor.nbytes)
    return _field(_INITIALIZER, len(message) + tensor.nbytes), message


def _field(number: int, length: int) -> bytes:
    """The tag of a field that has a length, and the length."""
    return bytes([*_varint(number << 3 | 2), *_varint(length)])


def _varint(value: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value
