"""Lower quantized layers of a traced graph to what LiteRT's converter knows: floats that are quantized and dequantized.

    quantize_dequantize        ->  the same, per tensor, in int8: uint8's zero point is moved by 128
    dequantize                 ->  W, quantized and dequantized per channel; a bias in floats
    dynamic_linear, packed_    ->  linear with W, quantized and dequantized per channel
    block_linear               ->  the same with a stand-in for W, whose place the blocks take when the file is there
    block_embedding            ->  embedding with the table in floats, whose place the blocks take
    lookup                     ->  W, written out
    widen                      ->  W in floats, whose place float16 takes

The converter makes integers of `quantize(W)` again, the same ones: W is s·Q to the last bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # defines torch.ops.quantized_decomposed
from torch import Tensor, fx

from ..runtime.errors import UnsupportedError
from .palette import lookup
from .qtensor import QTensor
from .quantized import unpacked
from .trace import module_of

aten, ours, theirs = torch.ops.aten, torch.ops.edgepress, torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Decision:
    """A layer's integers, and the ones that stand for them until the file is there: the same, or int8 per channel.

    A float16 weight is a plain tensor, and the same in floats stands for it.

    `dequantized`: where the product is one of floats, it is so of the floats that the integers stand for.
    """

    layer: str
    weight: QTensor | Tensor
    stand_in: QTensor | Tensor
    dequantized: bool = False


@dataclass
class Lowering:
    """A graph in the making, and the integers that the file must hold."""

    graph: fx.GraphModule
    static: bool = False
    decisions: list[Decision] = field(default_factory=list)

    def constant(self, node: object) -> Tensor | None:
        """What a node reads from the module; None for an argument that is not there."""
        if node is None:
            return None
        assert isinstance(node, fx.Node)
        if node.op != "get_attr":
            raise UnsupportedError(f"{node.name} is computed where TFLite wants a constant")
        value = self.graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        assert isinstance(value, Tensor)
        return value.detach()

    def keep(self, value: Tensor) -> fx.Node:
        """A node that reads a new constant."""
        name = f"constant_{len(self.graph._buffers)}"
        self.graph.register_buffer(name, value.contiguous())
        return self.graph.graph.get_attr(name)

    def call(self, operator: Any, *arguments: Any) -> fx.Node:
        return self.graph.graph.call_function(operator, arguments)

    def dequantized(self, weight: QTensor, floats: Tensor | None = None) -> fx.Node:
        """`W` as the converter recognizes it: int8 per channel, symmetric; or other floats behind the same two."""
        assert weight.axis is not None
        scale, zero = self.keep(weight.scale.float()), self.keep(torch.zeros(len(weight.scale), dtype=torch.int64))
        settings = (scale, zero, weight.axis, -127, 127, torch.int8)
        held = self.keep(weight.dequantize() if floats is None else floats)
        q = self.call(theirs.quantize_per_channel.default, held, *settings)
        return self.call(theirs.dequantize_per_channel.default, q, *settings)


def lower(graph: fx.GraphModule) -> Lowering:
    """Replace every `edgepress` node of the graph, in place.

    Raises UnsupportedError, with the layer's name, for integers that TFLite has no terms, or no fast kernel, for.
    """
    graph.graph.eliminate_dead_code()
    lowering = Lowering(graph, any(node.target is ours.quantize_dequantize.default for node in graph.graph.nodes))
    nodes = [node for node in graph.graph.nodes if node.op == "call_function" and node.target in LOWER]
    for node in nodes:
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(LOWER[node.target](node, lowering))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    _drop_unread(graph)
    graph.recompile()
    return lowering


def _drop_unread(graph: fx.GraphModule) -> None:
    """Drop the tensors that no node reads: the converter takes all that a module holds, of types that it has not."""
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for prefix, part in list(graph.named_modules()):
        for held in (part._parameters, part._buffers):
            for name in [name for name in held if (f"{prefix}.{name}" if prefix else name) not in read]:
                del held[name]


def layer_name(node: fx.Node) -> str:
    """The module that a node was traced in, or the node's own name."""
    return module_of(node) or node.name


def _quantize_dequantize(node: fx.Node, to: Lowering) -> fx.Node:
    x, scale, zero = node.args
    s, z = to.constant(scale), to.constant(zero)
    assert s is not None
    assert z is not None
    if z.dtype not in (torch.int8, torch.uint8):
        found = str(z.dtype).removeprefix("torch.")
        raise UnsupportedError(
            f"{layer_name(node)} has activations of {found}, TFLite files here int8; use int8 or uint8"
        )
    shift = 128 if z.dtype == torch.uint8 else 0
    settings = (float(s), int(z) - shift, -128, 127, torch.int8)
    q = to.call(theirs.quantize_per_tensor.default, x, *settings)
    return to.call(theirs.dequantize_per_tensor.default, q, *settings)


def _dequantize(node: fx.Node, to: Lowering) -> fx.Node:
    values, scale, zero, bits, axis = node.args
    q, s, z = to.constant(values), to.constant(scale), to.constant(zero)
    assert q is not None
    assert s is not None
    weight = QTensor(q, s, z, int(str(bits)), int(str(axis)))
    if q.dtype == torch.int32:
        return to.keep(weight.dequantize())
    return _per_channel(node, weight, to, dequantized=True)


def _per_channel(node: fx.Node, weight: QTensor, to: Lowering, *, dequantized: bool = False) -> fx.Node:
    if weight.values.dtype != torch.int8 or weight.zero is not None or int(weight.values.min()) < -127:
        raise UnsupportedError(f"{layer_name(node)}: TFLite has weights as symmetric int8 with a scale a channel")
    to.decisions.append(Decision(layer_name(node), weight, weight, dequantized))
    return to.dequantized(weight)


def _dynamic_linear(node: fx.Node, to: Lowering) -> fx.Node:
    x, values, scale, bias = node.args
    q, s = to.constant(values), to.constant(scale)
    assert q is not None
    assert s is not None
    return to.call(aten.linear.default, x, _per_channel(node, QTensor(q, s, None, 8, axis=0), to), bias)


def _packed_linear(node: fx.Node, to: Lowering) -> fx.Node:
    x, values, multiplier, zero, scale, bias, block = node.args
    q, m, z, s = (to.constant(part) for part in (values, multiplier, zero, scale))
    assert q is not None
    assert m is not None
    assert z is not None
    assert s is not None
    weight = QTensor(unpacked(q, m, z, int(str(block))), s, None, 8, axis=0)
    return to.call(aten.linear.default, x, _per_channel(node, weight, to), bias)


def _block_linear(node: fx.Node, to: Lowering) -> fx.Node:
    x, values, scale, zero, bias, bits, block = node.args
    weight = _blocks(node, (values, scale, zero), to, int(str(bits)), int(str(block)))
    if weight.block is None:
        raise UnsupportedError(f"{layer_name(node)}: TFLite multiplies no 8 bit blocks; use dynamic_int8")
    if weight.block % 32 or weight.values.shape[1] % weight.block:
        raise UnsupportedError(
            f"{layer_name(node)}: TFLite multiplies blocks of a multiple of 32 that fill a row; here are blocks of "
            f"{weight.block} in rows of {weight.values.shape[1]}"
        )
    if not _same(weight.scale, weight.scale.to(torch.bfloat16).to(torch.float16)):
        raise UnsupportedError(
            f"{layer_name(node)}: TFLite keeps the scales of products in 8 significant bits; set short_scales = true"
        )
    stand_in = _stand_in(weight.dequantize())
    to.decisions.append(Decision(layer_name(node), weight, stand_in))
    return to.call(aten.linear.default, x, to.dequantized(stand_in), bias)


def _block_embedding(node: fx.Node, to: Lowering) -> fx.Node:
    ids, values, scale, zero, bits, block = node.args
    weight = _blocks(node, (values, scale, zero), to, int(str(bits)), int(str(block)))
    if weight.block is not None and weight.values.shape[1] % weight.block:
        raise UnsupportedError(
            f"{layer_name(node)}: TFLite looks up rows of whole blocks; here are blocks of {weight.block} in rows of "
            f"{weight.values.shape[1]}"
        )
    if weight.block is not None and not _same(weight.scale, weight.scale.to(torch.float16)):
        raise UnsupportedError(f"{layer_name(node)}: TFLite keeps scales as float16; set half_scales = true")
    if not _is_fixed(ids):  # the same rows in every call, as those of positions, become floats in the file
        to.decisions.append(Decision(layer_name(node), weight, weight))
    return to.call(aten.embedding.default, to.keep(weight.dequantize()), ids)


def _is_fixed(node: Any) -> bool:
    """True where a value depends on no input but by its shape, which is fixed in the file."""
    left, seen = [node], set()
    while left:
        part = left.pop()
        if part.op == "placeholder":
            return False
        if part not in seen and part.target is not aten.sym_size.int:
            seen.add(part)
            left += part.all_input_nodes
    return True


def _blocks(node: fx.Node, parts: tuple[Any, ...], to: Lowering, bits: int, block: int) -> QTensor:
    """4 bits in blocks; 8 bits where a block is a whole row: int8 with a scale a row, which is another thing there."""
    q, s, z = (to.constant(part) for part in parts)
    assert q is not None
    assert s is not None
    if z is not None:
        raise UnsupportedError(f"{layer_name(node)}: TFLite has no zero points for blocks; set symmetric = true")
    if bits == 4:
        return QTensor(q, s, None, 4, block=block)
    width = q.shape[1]
    if block < width:
        raise UnsupportedError(
            f"{layer_name(node)}: TFLite has no {bits} bit blocks; set bits = 4, or a block of a whole row ({width})"
        )
    return QTensor((q.int() - 128).to(torch.int8), s[:, 0].float(), None, 8, axis=0)


def _stand_in(weight: Tensor) -> QTensor:
    """int8 per channel, near enough to W to be told from all others."""
    scale = (weight.abs().amax(1) / 127).clamp_min(1e-12)
    values = torch.round(weight / scale[:, None]).clamp(-127, 127).to(torch.int8)
    return QTensor(values, scale, None, 8, axis=0)


def _widen(node: fx.Node, to: Lowering) -> fx.Node:
    half = to.constant(node.args[0])
    assert half is not None
    floats = half.float()
    if not all(user.target is aten.embedding.default and _is_fixed(user.args[1]) for user in node.users):
        to.decisions.append(Decision(layer_name(node), half, floats, dequantized=True))
    multiplied = any(user.target is aten.linear.default for user in node.users)
    if multiplied and not to.static:  # or the converter would fold a normalization's weights into these
        return to.dequantized(_stand_in(floats), floats)
    return to.keep(floats)


def _lookup(node: fx.Node, to: Lowering) -> fx.Node:
    index, palette = (to.constant(argument) for argument in node.args)
    assert index is not None
    assert palette is not None
    return to.keep(lookup(index, palette))


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.float(), b.float())


LOWER: Mapping[Any, Callable[[fx.Node, Lowering], fx.Node]] = {
    ours.quantize_dequantize.default: _quantize_dequantize,
    ours.dequantize.default: _dequantize,
    ours.dynamic_linear.default: _dynamic_linear,
    ours.packed_linear.default: _packed_linear,
    ours.block_linear.default: _block_linear,
    ours.block_embedding.default: _block_embedding,
    ours.widen.default: _widen,
    ours.lookup.default: _lookup,
}
