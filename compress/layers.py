"""Find layers by kind and name, and put others in their place."""

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..runtime.errors import UsageError

# The kinds of layer that a pass may name in its settings.
KINDS: dict[str, type[nn.Module]] = {"linear": nn.Linear, "embedding": nn.Embedding}


def find_layers(
    module: nn.Module, kinds: Sequence[str], include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Layers of these kinds by module name, for which a pattern of `include` fits and none of `exclude` does.

    Raises UsageError for a pattern that fits no layer of the module: a misspelt name must not pass in silence.

    >>> list(find_layers(bert, ["linear"], include=["*.query"]))[0]
    'encoder.layer.0.attention.self.query'
    """
    types = tuple(KINDS[kind] for kind in kinds)
    layers = {name: layer for name, layer in module.named_modules() if type(layer) in types}
    for pattern in (*(p for p in include if p != "*"), *exclude):
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            some = ", ".join(list(layers)[:3])
            raise UsageError(f"the pattern {pattern!r} fits no {' or '.join(kinds)} layer; names look like {some}")
    return {
        name: layer
        for name, layer in layers.items()
        if any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
    }


def with_layers(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `module` with other layers at these names; the layers it was handed are not copied and not changed."""
    spared: dict[int, object] = {}
    for name in replacements:
        layer = module.get_submodule(name)
        spared[id(layer)] = layer  # deepcopy takes what is in its memo as copied already
    result = copy.deepcopy(module, spared)
    for name, layer in replacements.items():
        parent, _, child = name.rpartition(".")
        setattr(result.get_submodule(parent), child, layer)
    return result
