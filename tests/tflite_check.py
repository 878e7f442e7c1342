"""What the tests of TFLite share: small files built by hand, and what the exporter makes of small models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from edgepress.export.model import Model
from edgepress.runtime.tflite_notes import ENTRY, Notes

from .quantize_check import seeded

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
    "float64": schema.TensorType.FLOAT64,
}


@dataclass(frozen=True)
class Graph:
    """`y = op(x, x)` for one shape; `free` is the shape that the file tells, -1 for any length."""

    shape: Sequence[int]
    signature: str = ""
    free: Sequence[int] = ()
    dtype: str = "float32"
    names: Sequence[str] = field(default=("x", "y"))


def build(
    path: Path, *graphs: Graph, op: int = schema.BuiltinOperator.ADD, custom: bytes = b"", notes: Notes | None = None
) -> Path:
    """Write a file with these subgraphs, each of one operator."""
    model = schema.ModelT()
    model.version, model.buffers, model.subgraphs, model.signatureDefs = 3, [schema.BufferT()], [], []
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = op, min(op, 127), custom or None
    code.version = 1
    model.operatorCodes = [code]
    for number, graph in enumerate(graphs):
        part = schema.SubGraphT()
        part.tensors = [_tensor(name, graph) for name in graph.names]
        part.inputs, part.outputs = [0], [1]
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = [0, 0], [1]
        if op == schema.BuiltinOperator.ADD:
            operator.builtinOptionsType, operator.builtinOptions = (
                schema.BuiltinOptions.AddOptions,
                schema.AddOptionsT(),
            )
        part.operators = [operator]
        model.subgraphs.append(part)
        if graph.signature:
            model.signatureDefs.append(_signature(graph, number))
    if notes is not None:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(notes.to_json())
        model.buffers.append(buffer)
        entry.name, entry.buffer = ENTRY, len(model.buffers) - 1
        model.metadata = [entry]
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _tensor(name: str, graph: Graph) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(graph.shape), TYPES[graph.dtype], 0
    if graph.free:
        tensor.shapeSignature = list(graph.free)
    return tensor


def _signature(graph: Graph, number: int) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = graph.signature, number
    maps = []
    for index, name in enumerate(graph.names):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    signature.inputs, signature.outputs = maps[:1], maps[1:]
    return signature


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


class Pooled(nn.Module):
    """Token states and their masked mean: `ids`, `mask` int64 [batch, sequence] -> [batch, 3], [batch, sequence, 3]."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.table, self.layer = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.layer(self.table(ids))
        held = mask[..., None].float() if self.masked else torch.ones_like(mask)[..., None].float()
        return (states * held).sum(1) / held.sum(1), states


class Volume(nn.Module):
    """A convolution in three dimensions, for which XNNPACK has no kernel, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 4, 3), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


def volume() -> Model:
    """864 multiply-accumulates that LiteRT's own kernel does, and 320 of XNNPACK's."""
    return Model("volume", seeded(Volume()).eval(), {"x": torch.ones(1, 1, 4, 4, 4)}, ("y",), {})


def pooled(masked: bool = True, **lengths: tuple[int, ...]) -> Model:
    """An example of two texts, of 5 and 3 tokens."""
    ids, mask = torch.arange(1, 11).reshape(2, 5), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    axes = {name: {0: "batch", 1: "sequence"} for name in ("ids", "mask")}
    module = seeded(Pooled(masked)).eval()
    return Model("pooled", module, {"ids": ids, "mask": mask}, ("mean", "states"), axes, lengths=lengths)
