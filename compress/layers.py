"""Find layers by kind and name, and put others in their place."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..runtime.errors import UsageError

# The kinds of layer that a pass may name in its settings.
KINDS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "embedding": nn.Embedding,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
}


def find_layers(
    module: nn.Module, kinds: Sequence[str], include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Layers of these kinds by module name, for which a pattern of `include` fits and none of `exclude` does.

    A layer that the module holds under several names comes once, under the first; a pattern may fit any of them.
    Raises UsageError for a pattern that fits no layer of the module: a misspelt name must not pass in silence.

    >>> list(find_layers(bert, ["linear"], include=["*.query"]))[0]
    'encoder.layer.0.attention.self.query'
    """
    types = [KINDS[kind] for kind in kinds]
    names: dict[nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if type(layer) in types:
            names.setdefault(layer, []).append(name)
    every = [name for known in names.values() for name in known]
    refuse_unfitting(every, (*include, *exclude), " or ".join(kinds))
    return {known[0]: layer for layer, known in names.items() if fits(known, include) and not fits(known, exclude)}


def fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """True where a shell pattern fits one of the names that a layer has."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def refuse_unfitting(names: Collection[str], patterns: Iterable[str], what: str) -> None:
    """Raises UsageError for a pattern that fits none of the names, where there are any; "*" is no name to misspell."""
    for pattern in patterns:
        if pattern != "*" and names and not fits(names, [pattern]):
            some = ", ".join(list(names)[:3])
            raise UsageError(f"the pattern {pattern!r} fits no {what} layer; names look like {some}")


def with_layers(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `module` with other layers at these names, and wherever else it refers to the layers that give way.

    What gives way is neither copied nor changed. A parameter that a replacement has from the module stays tied: it is
    that very one wherever else the module holds it. Where the module itself is named (""), its replacement is returned.
    """
    # deepcopy takes what is in its memo as copied already
    copied: dict[int, object] = {id(module.get_submodule(name)): layer for name, layer in replacements.items()}
    copied |= {id(parameter): parameter for layer in replacements.values() for parameter in layer.parameters()}
    result = copy.deepcopy(module, copied)
    for part in result.modules():  # torch's own encoders have fast paths that read weights past a layer's forward
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
    return result
