"""Capture a module as a graph of ATen operators, with batch normalization folded away.

BatchNorm ∘ Conv -> Conv:   W' = W·γ/√(σ² + ε),   b' = (b − μ)·γ/√(σ² + ε) + β
"""

import operator
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..export.model import Model
from ..export.trace import quiet, trace

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding}


def capture(model: Model) -> fx.GraphModule:
    """The model's graph in evaluation mode, free axes kept; the model itself is not changed.

    In the graph no value changes after it was computed, except through a node that takes its place: what is inserted
    behind a value holds for all its readers. Raises UnsupportedError where torch.export cannot trace it.
    """
    program = trace(model)
    if any(_writes_into_view(node) for node in program.graph.nodes):
        with quiet():
            program = program.run_decompositions({})  # functional; batch normalization takes a form that is not folded
    traced = program.module(check_guards=False)
    graph = fx.GraphModule(traced, traced.graph)  # torch.export's own class refuses eval() and train()
    fold_batch_norm(graph)
    return graph


def _writes_into_view(node: fx.Node) -> bool:
    """True where a node writes into memory that other nodes read under another name, as `x[:, 0] *= 2` does."""
    written = [value for value, alias in _aliases(node) if alias.is_write]
    return any(_is_view(value) or any(_is_view(user) for user in value.users) for value in written)


def _is_view(node: fx.Node) -> bool:
    return any(not alias.is_write for _, alias in _aliases(node))


def _aliases(node: fx.Node) -> list[tuple[fx.Node, Any]]:
    """The arguments that a node's result shares memory with, each with what the operator's schema says of that."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    pairs = zip(node.args, node.target._schema.arguments, strict=False)
    return [(value, a.alias_info) for value, a in pairs if isinstance(value, fx.Node) and a.alias_info is not None]


def fold_batch_norm(graph: fx.GraphModule) -> int:
    """Fold every batch normalization that alone reads a convolution into it, in place; returns how many."""
    folded = 0
    for conv, norm in list(_pairs(graph)):
        weight, bias = _weight_and_bias(graph, conv)
        gamma, beta, mean, variance = (constant(graph, node) for node in norm.args[1:5])
        if weight is None or mean is None or variance is None:
            continue
        eps = norm.args[7]
        assert isinstance(eps, float)
        factor = torch.rsqrt(variance + eps) * (1.0 if gamma is None else gamma)
        shift = (-mean if bias is None else bias - mean) * factor + (0.0 if beta is None else beta)
        with graph.graph.inserting_before(conv):
            new_weight = add_constant(graph, weight * factor.view(-1, *[1] * (weight.ndim - 1)), "folded_weight")
            new_bias = add_constant(graph, shift, "folded_bias")
        conv.args = (conv.args[0], new_weight, new_bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)
        folded += 1
    tidy(graph)
    return folded


def _pairs(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    for norm in graph.graph.nodes:
        if norm.target is aten.batch_norm.default and not norm.args[5]:
            conv = norm.args[0]
            if isinstance(conv, fx.Node) and conv.target in CONVOLUTIONS and len(conv.users) == 1:
                yield conv, norm


def _weight_and_bias(graph: fx.GraphModule, conv: fx.Node) -> tuple[Tensor | None, Tensor | None]:
    return constant(graph, conv.args[1]), constant(graph, conv.args[2]) if len(conv.args) > 2 else None


def constant(graph: fx.GraphModule, node: object) -> Tensor | None:
    """The parameter or buffer that a `get_attr` node reads, or None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    assert isinstance(node.target, str)
    value = operator.attrgetter(node.target)(graph)
    return value.detach() if isinstance(value, Tensor) else None


def parameter(graph: fx.GraphModule, node: object) -> nn.Parameter | None:
    """What `constant` gives, as the parameter that it is from now on: a weight that folding has made learns too."""
    value = constant(graph, node)
    if value is None:
        return None
    assert isinstance(node, fx.Node)
    owner, _, name = str(node.target).rpartition(".")
    part = graph.get_submodule(owner)
    if not isinstance(getattr(part, name), nn.Parameter):
        delattr(part, name)
        part.register_parameter(name, nn.Parameter(value))
    return part.get_parameter(name)


def add_constant(graph: fx.GraphModule, value: Tensor, name: str) -> fx.Node:
    """Keep `value` as a buffer under a free name and return the node that reads it."""
    free = next(n for n in chain([name], (f"{name}_{i}" for i in count(1))) if not hasattr(graph, n))
    graph.register_buffer(free, value.detach().clone())
    return graph.graph.get_attr(free)


def tidy(graph: fx.GraphModule) -> None:
    """Drop nodes and tensors that nothing reads, and compile the graph anew."""
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    for owner_name, owner in list(graph.named_modules()):
        for name in [] if owner_name in called else [*owner._parameters, *owner._buffers]:
            full = f"{owner_name}.{name}" if owner_name else name
            if full not in used:
                delattr(owner, name)
    graph.recompile()
