"""Write a decision of static int8 into a captured graph: first layers that round as they run, then integers.

x -> FakeActivation,  W -> FakeChannels,  b -> FakeBias        insert: the graph can be trained
x -> quantize_dequantize(x, s_x, z_x),  W -> s_w·Q_w,  b -> s_x·s_w·Q_b        settle: it can be exported
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from ..export import quantized  # noqa: F401 - defines the edgepress operators
from .capture import add_constant, parameter, tidy
from .fake import FakeActivation, FakeBias, FakeChannels
from .weights import per_channel

Fake = TypeVar("Fake", FakeActivation, FakeBias, FakeChannels)


def insert(
    graph: fx.GraphModule,
    products: Iterable[fx.Node],
    owners: Mapping[fx.Node, fx.Node],
    readers: Mapping[fx.Node, Iterable[fx.Node]],
    scales: Mapping[fx.Node, tuple[Tensor, Tensor]],
    *,
    bits: int,
) -> None:
    """Put rounding layers into `graph`, in place: behind each value of `owners`, and for what `products` read.

    `readers` says who reads a value rounded. Values of one owner share its layer, whose scale and zero point `scales`
    holds. Weights keep `bits` bits.
    """
    names = {owner: f"fake_activation_{i}" for i, owner in enumerate(scales)}
    for owner, name in names.items():
        graph.add_submodule(name, FakeActivation(*scales[owner]))
    for node, owner in owners.items():
        with graph.graph.inserting_after(node):
            call = graph.graph.call_module(names[owner], (node,))
        for user in readers[node]:
            user.replace_input_with(node, call)
    by_weight: dict[nn.Parameter, list[fx.Node]] = {}
    for node in products:
        weight = parameter(graph, node.args[1])
        assert weight is not None
        by_weight.setdefault(weight, []).append(node)
    for i, (weight, nodes) in enumerate(by_weight.items()):
        fake = _call(graph, f"fake_weight_{i}", FakeChannels(weight, bits), before=nodes[0])
        for j, node in enumerate(nodes):
            node.update_arg(1, fake)
            bias, read = parameter(graph, _bias(node)), _layer(graph, node.args[0], FakeActivation)
            if bias is not None and read is not None:
                layer = FakeBias(bias, weight, read.scale, bits)
                node.update_arg(2, _call(graph, f"fake_bias_{i}_{j}", layer, before=node))
    tidy(graph)


def counts(graph: fx.GraphModule) -> tuple[int, int]:
    """How many products and how many activations rounding layers stand for."""
    products = sum(len(node.users) for node, _ in _layers(graph, FakeChannels))
    return products, len({layer for _, layer in _layers(graph, FakeActivation)})


def settle(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph of `insert`, changed in place: the integers that its layers rounded to."""
    for node, layer in _layers(graph, FakeActivation):
        with graph.graph.inserting_before(node):
            constants = add_constant(graph, layer.scale, "scale"), add_constant(graph, layer.zero, "zero")
            operator = torch.ops.edgepress.quantize_dequantize.default
            call = graph.graph.call_function(operator, (node.args[0], *constants))
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
    for node, layer in _layers(graph, FakeChannels):
        _settle_constants(graph, list(node.users), layer)
    tidy(graph)
    return graph


def _settle_constants(graph: fx.GraphModule, nodes: Sequence[fx.Node], channels: FakeChannels) -> None:
    """A weight, and the biases of the products that read it, as integers.

    Where a channel's weights are 0, or next to nothing beside its bias, s_w is so large that the bias takes no more
    than 2^30 steps.
    """
    biases = [_layer(graph, _bias(node), FakeBias) for node in nodes]
    least = torch.zeros(len(channels.weight))
    for bias in biases:
        if bias is not None:
            least = torch.maximum(least, bias.bias.detach().abs() / (bias.step * 2**30))
    q = per_channel(channels.weight, bits=channels.bits, least=least)
    shared = _dequantized(graph, nodes[0], q.values, q.scale, "weight")
    for node, bias in zip(nodes, biases, strict=True):
        node.update_arg(1, shared)
        if bias is not None:
            counted = torch.round(bias.bias.detach().double() / (bias.step.double() * q.scale.double()))
            node.update_arg(2, _dequantized(graph, node, counted.to(torch.int32), bias.step * q.scale, "bias"))


def _dequantized(graph: fx.GraphModule, node: fx.Node, values: Tensor, scale: Tensor, name: str) -> fx.Node:
    """A node before `node` that dequantizes constants per output channel."""
    with graph.graph.inserting_before(node):
        arguments = (add_constant(graph, values, name), add_constant(graph, scale, f"{name}_scale"))
        bits = values.element_size() * 8
        return graph.graph.call_function(torch.ops.edgepress.dequantize.default, (*arguments, None, bits, 0))


def _bias(product: fx.Node) -> object:
    return product.args[2] if len(product.args) > 2 else None


def _call(graph: fx.GraphModule, name: str, layer: nn.Module, *, before: fx.Node) -> fx.Node:
    """A node before another that calls a layer without inputs."""
    graph.add_submodule(name, layer)
    with graph.graph.inserting_before(before):
        return graph.graph.call_module(name)


def _layer(graph: fx.GraphModule, node: object, kind: type[Fake]) -> Fake | None:
    """The layer of this kind that a node calls; None where it does anything else."""
    layer = graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
    return layer if isinstance(layer, kind) else None


def _layers(graph: fx.GraphModule, kind: type[Fake]) -> list[tuple[fx.Node, Fake]]:
    """The nodes that call a layer of this kind, with the layer."""
    return [(node, layer) for node in graph.graph.nodes if (layer := _layer(graph, node, kind)) is not None]
