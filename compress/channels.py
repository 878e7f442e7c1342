"""Channels of convolutional networks, with all that depends on them, found by Torch-Pruning.

DepGraph (Fang et al., CVPR 2023). A channel is an output of a convolution. Batch norm behind it, what adds to it in a
residual connection, depthwise convolutions and the layers that read it go with it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating, first_line, quiet
from ..runtime.errors import MissingExtra, UnsupportedError
from .groups import Group

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, nn.Linear)
_UNKNOWN = "what uses them is not all known"
# What a module or the tracing of it raises where sizes do not fit each other any more.
_MISFITS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def channels(model: Model) -> list[Group]:
    """A group for each set of channels that must go together, all kept, named after its first convolution.

    `why` is set where the group must stay whole: the model's outputs would change their shape, a grouped convolution
    reads them, or a model without one of them does not compute what it does where their readers have zeros for it.
    Empty where the model has no convolution. Raises UnsupportedError where the model cannot be traced.
    """
    if not any(isinstance(part, _CONVOLUTIONS) for part in model.module.modules()):
        return []
    found = [_described(graph, items, names) for graph, items, names in _groups(model)]
    free = [group for group in found if not group.why]
    if _misfit(model, free):
        whys = {group.name: _misfit(model, [group]) for group in free}
        found = [replace(group, why=whys.get(group.name, group.why)) for group in found]
    places = [name for name, _ in model.module.named_modules()]
    return sorted(found, key=lambda group: places.index(group.name))


def with_channels(model: Model, groups: Sequence[Group]) -> nn.Module:
    """A copy of the module with only the channels that are kept. Raises UnsupportedError where it cannot be traced."""
    module = copy.deepcopy(model.module)
    graph = _traced(replace(model, module=module))
    for group in groups:
        if group.cut:
            kept = set(group.kept)
            root = module.get_submodule(group.name)
            pruner = graph.get_pruner_of_module(root)
            gone = [unit for unit in range(group.size) if unit not in kept]
            graph.get_pruning_group(root, pruner.prune_out_channels, gone).prune()
    trained = {name: parameter.requires_grad for name, parameter in model.module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained[name])
        parameter.grad = None
    return module


def _groups(model: Model) -> Iterator[tuple[Any, Any, dict[nn.Module, str]]]:
    """The dependency graph, one of its groups with a convolution as its root, and the names of the modules."""
    module = copy.deepcopy(model.module)
    graph = _traced(replace(model, module=module))
    names = {part: name for name, part in module.named_modules()}
    for items in graph.get_all_groups(root_module_types=[*_CONVOLUTIONS]):
        yield graph, items, names


def _traced(model: Model) -> Any:
    """Torch-Pruning's dependency graph of a module that is our own; it follows the gradients."""
    try:
        from torch_pruning import DependencyGraph
    except ImportError as error:
        raise MissingExtra("torch-pruning", "compress") from error
    model.module.requires_grad_(True)
    try:
        with evaluating(model.module), quiet(), torch.enable_grad():
            return DependencyGraph().build_dependency(model.module, dict(model.example), verbose=False)
    except _MISFITS as error:
        why = first_line(error)
        raise UnsupportedError(f"structured: the channels of {model.name} cannot be followed: {why}") from error


def _described(graph: Any, items: Any, names: Mapping[nn.Module, str]) -> Group:
    """A group of Torch-Pruning's in our own terms."""
    root = items[0].dep.target.module
    size = graph.get_out_channels(root)
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    why = ""
    for item in items:
        dep, layer = item.dep, item.dep.target.module
        if not isinstance(layer, _LAYERS):
            continue
        writes = graph.is_out_channel_pruning_fn(dep.handler)
        count = graph.get_out_channels(layer) if writes else graph.get_in_channels(layer)
        units = (rows if writes else columns).setdefault(names[layer], torch.full((count,), -1))
        units[list(item.idxs)] = torch.tensor(item.root_idxs)
        groups = getattr(layer, "groups", 1)
        if groups > 1 and not groups == layer.in_channels == layer.out_channels:
            why = f"{names[layer]} is a grouped convolution"
    return Group(names[root], "channels", size, tuple(range(size)), rows, columns, why)


def _misfit(model: Model, groups: Sequence[Group]) -> str:
    """Why the model does not do its work any more where one channel of each group is gone; empty where it does."""
    tried = [replace(group, kept=group.kept[1:]) for group in groups if group.size > 1]
    expected = _run(model, _zeroed(model.module, tried))
    try:
        found = _run(model, with_channels(model, tried))
    except _MISFITS:
        return _UNKNOWN
    for name, y in expected.items():
        if found[name].shape != y.shape:
            return f"they are the model's output {name}"
        if not torch.allclose(found[name], y, rtol=1e-3, atol=1e-3 * float(y.abs().max())):
            return _UNKNOWN
    return ""


def _run(model: Model, module: nn.Module) -> dict[str, Tensor]:
    with evaluating(module):
        return replace(model, module=module)(**model.example)


def _zeroed(module: nn.Module, groups: Sequence[Group]) -> nn.Module:
    """A copy in which nothing reads the units that go, all of its tensors as large as before."""
    module = copy.deepcopy(module)
    for group in groups:
        for name, units in group.columns.items():
            layer = module.get_submodule(name)
            weight = layer.get_parameter("weight").detach()
            inputs = weight if getattr(layer, "transposed", False) else weight.transpose(0, 1)
            inputs[(units >= 0) & ~torch.isin(units, torch.tensor(group.kept))] = 0
    return module
