"""Fill in the layers that a skeleton leaves open: `edgepress::leaf` becomes what lies at its name now.

What is written for each kind of layer:

    Linear          ->  MatMul, Add (Gemm for a matrix)
    Embedding       ->  Gather
    Divided         ->  Mul, and its inner layer
    quantized ones  ->  their `edgepress` operator, with its integers and scales as initializers
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from .onnx_lower import DOMAIN, Lowering
from .quantized import BlockEmbedding, BlockLinear, Divided, DynamicLinear, PackedLinear

LEAF = "leaf"


def fill(graph: ir.Graph, module: nn.Module) -> None:
    """Replace every leaf of the graph, in place, by the layer of `module` that it names."""
    filling = Lowering(graph)
    divided: dict[tuple[ir.Value, bytes], ir.Value] = {}
    for node in [node for node in graph if node.op_type == LEAF and node.domain == DOMAIN]:
        filling.nodes = []
        name, x = node.attributes["name"].as_string(), node.inputs[0]
        assert x is not None
        layer, rank = module.get_submodule(name), 0 if x.shape is None else len(x.shape)
        if isinstance(layer, Divided):
            inverse = layer.inverse.numpy()
            key = (x, inverse.tobytes())
            if key not in divided:  # query, key and value read the same x, divided by the same
                divided[key] = filling.op("Mul", x, filling.constant(inverse, f"{name}.inverse"))[0]
            x, layer = divided[key], layer.layer
        put = _Put(filling, name, layer)
        y = FILL[type(layer)](put, x, rank)
        ir.convenience.replace_nodes_and_values(graph, node, [node], filling.nodes, [node.outputs[0]], [y])


class _Put:
    """A layer, and the constants that are made of its tensors."""

    def __init__(self, to: Lowering, name: str, layer: Any) -> None:
        self.to, self.name, self.layer = to, name, layer

    def constant(self, name: str, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> ir.Value | None:
        tensor = getattr(self.layer, name)
        if tensor is None:
            return None
        return self.to.constant(change(tensor.detach()).contiguous().numpy(), f"{self.name}.{name}")

    def own(self, x: ir.Value, op: str, constants: tuple[str, ...], **settings: int) -> ir.Value:
        """The layer's own operator, to be lowered like those that were traced."""
        return self.to.op(op, x, *(self.constant(name) for name in constants), domain=DOMAIN, **settings)[0]


def _linear(put: _Put, x: ir.Value, rank: int) -> ir.Value:
    bias = put.constant("bias")
    if rank == 2:
        return put.to.op("Gemm", x, put.constant("weight"), *([] if bias is None else [bias]), transB=1)[0]
    (y,) = put.to.op("MatMul", x, put.constant("weight", torch.t))
    return y if bias is None else put.to.op("Add", y, bias)[0]


def _embedding(put: _Put, ids: ir.Value, rank: int) -> ir.Value:
    return put.to.op("Gather", put.constant("weight"), ids)[0]


def _dynamic(put: _Put, x: ir.Value, rank: int) -> ir.Value:
    return put.own(x, "dynamic_linear", ("values", "scale", "bias"))


def _packed(put: _Put, x: ir.Value, rank: int) -> ir.Value:
    names = ("values", "multiplier", "zero", "scale", "bias")
    return put.own(x, "packed_linear", names, block=put.layer.block)


def _block(put: _Put, x: ir.Value, rank: int) -> ir.Value:
    settings = {"bits": put.layer.bits, "block": put.layer.block}
    return put.own(x, "block_linear", ("values", "scale", "zero", "bias"), **settings)


def _block_embedding(put: _Put, ids: ir.Value, rank: int) -> ir.Value:
    settings = {"bits": put.layer.bits, "block": put.layer.block}
    return put.own(ids, "block_embedding", ("values", "scale", "zero"), **settings)


FILL: Mapping[type[nn.Module], Callable[[_Put, ir.Value, int], ir.Value]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    DynamicLinear: _dynamic,
    PackedLinear: _packed,
    BlockLinear: _block,
    BlockEmbedding: _block_embedding,
}
