"""Trace once: a model's program in which each layer that a pass may replace is one node without an inside.

    y = leaf(x; name)

Passes swap such layers (`Model.then(..., swapped=...)`) and leave the graph around them as it is, so that one trace
serves the model as it came and all that was made of it: an exporter fills in what lies at each name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..runtime.errors import UnsupportedError
from .model import Model
from .quantized import BlockEmbedding, BlockLinear, Divided, DynamicLinear, PackedLinear
from .trace import trace

torch.library.define("edgepress::leaf", "(Tensor x, str name, int width, bool gathers) -> Tensor")

_LINEAR = (nn.Linear, DynamicLinear, PackedLinear, BlockLinear)
_EMBEDDING = (nn.Embedding, BlockEmbedding)


@torch.library.register_fake("edgepress::leaf")
def _(x: Tensor, name: str, width: int, gathers: bool) -> Tensor:
    return x.new_empty(*x.shape, width, dtype=torch.float32) if gathers else x.new_empty(*x.shape[:-1], width)


def hollow_trace(model: Model) -> tuple[Any, Mapping[str, nn.Module]]:
    """The model as an ExportedProgram in which each of `leaves` is a node `edgepress::leaf`, and those leaves by name.

    A layer whose weights the graph reads past its forward is traced as it is. Raises what `trace` raises.
    """
    chosen = leaves(model.module)
    while chosen:
        try:
            program = trace(model, _hollow(chosen))
        except UnsupportedError:  # as where a layer is mapped over with vmap: the leaf may be what cannot be traced
            break
        if any(isinstance(part, fx.GraphModule) for part in program.graph_module.children()):
            break  # a region of its own (autocast, cond), where other rules than the leaf's may hold
        read = _read(program, model.module)
        if not (open_ := [name for name, layer in chosen.items() if read & {id(t) for t in _tensors(layer)}]):
            return program, chosen
        chosen = {name: layer for name, layer in chosen.items() if name not in open_}
    return trace(model), {}


def leaves(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that are a function of their input and nothing else, by the first name that each has.

    Linear and Embedding in float32, and the quantized layers that replace them; none whose weight another module
    holds too, that computes its weight anew (parametrizations, pruning), or whose forward is not its class's own.
    """
    holders = Counter(id(tensor) for part in module.modules() for tensor in part._parameters.values())
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, layer in module.named_modules():
        if name and layer not in inside and _is_leaf(layer):
            inside.update(layer.modules())
            if all(holders[id(tensor)] == 1 for tensor in layer.parameters()):
                found[name] = layer
    return found


def width(layer: nn.Module) -> int:
    """The length of the last axis of what a leaf returns."""
    layer = layer.layer if isinstance(layer, Divided) else layer
    weight = (
        layer.values if isinstance(layer, DynamicLinear | PackedLinear | BlockLinear | BlockEmbedding) else layer.weight
    )
    assert isinstance(weight, Tensor)
    return weight.shape[1] if isinstance(layer, _EMBEDDING) else weight.shape[0]


def outside(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The parameters and buffers that belong to none of the layers at these names."""
    within = {id(tensor) for name in names for tensor in _tensors(module.get_submodule(name))}
    held = chain(module.named_parameters(), module.named_buffers())
    return {name: tensor for name, tensor in held if id(tensor) not in within}


def _is_leaf(layer: nn.Module) -> bool:
    if any("forward" in part.__dict__ for part in layer.modules()):
        return False
    if type(layer) is Divided:
        return type(layer.layer) in _LINEAR and _is_leaf(layer.layer)
    if type(layer) not in (*_LINEAR, *_EMBEDDING):
        return False
    plain = isinstance(layer, nn.Linear | nn.Embedding)
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return False  # it writes into its table
    if plain and (set(layer._parameters) - {"bias"} != {"weight"} or layer._buffers):
        return False
    return all(tensor.dtype == torch.float32 for tensor in layer.parameters())


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    return chain(layer.parameters(), layer.buffers())


@contextmanager
def _hollow(chosen: Mapping[str, nn.Module]) -> Iterator[None]:
    """While this lasts a leaf's forward is one operator; hooks around it run as ever."""

    def forward(name: str, layer: nn.Module) -> Any:
        size, gathers = width(layer), isinstance(layer, _EMBEDDING)
        return lambda input: torch.ops.edgepress.leaf(input, name, size, gathers)  # noqa: A006 - torch's own name

    for name, layer in chosen.items():
        layer.forward = forward(name, layer)
    try:
        yield
    finally:
        for layer in chosen.values():
            del layer.forward


def _read(program: Any, module: nn.Module) -> set[int]:
    """The ids of the module's tensors that a node of the program reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    held = dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))
    return {id(held[names[node.name]]) for node in program.graph.nodes if node.users and names.get(node.name) in held}
