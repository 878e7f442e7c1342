"""Fold the division of a tensor into the layer that makes it: no file has to say it then, and no engine has to do it.

    norm(x; w, b) / s = norm(x; w/s, b/s)        (x Wᵀ + b) / s = x (W/s)ᵀ + b/s

The second holds through all that is linear in that layer's output, as the gated product of a decoder's neurons is, and
not through a GELU or a residual. Which layer it is nobody has to know: each one before is tried, and the model is run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from .importance import reading

# How many layers before the readers are tried, and how far the outputs may move by rounding, of the largest one.
_TRIED, _SAME = 6, 1e-4

# A layer's parameters -> the same for an output divided by s.
_Rule = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]


def fold(model: Model, names: Sequence[str], s: Tensor) -> str | None:
    """Multiply the weights of the Linear layers `names` by s, (in,), and divide what they read by it, all in place.

    Returns the name of the layer that was divided; None, and nothing changed, where no layer can take it. The model
    computes what it computed before, which is made sure by running its example.

    >>> fold(llama, ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"], s)
    'model.layers.0.post_attention_layernorm'
    """
    with evaluating(model.module), torch.no_grad():
        wanted = model(**model.example)
        makers = list(_makers(model, names[0], len(s)))
        readers = [model.module.get_submodule(name) for name in names]
        before = [_changed(layer, {"weight": layer.get_parameter("weight") * s}) for layer in readers]
        for name in makers:
            layer = model.module.get_submodule(name)
            for rule in _RULES[isinstance(layer, nn.Linear)]:
                own = _changed(layer, rule(dict(layer.named_parameters(recurse=False)), s))
                if _same(model(**model.example), wanted):
                    return name
                _changed(layer, own)
        for layer, own in zip(readers, before, strict=True):
            _changed(layer, own)
    return None


def _makers(model: Model, reader: str, width: int) -> Iterator[str]:
    """Norms and Linear layers that give so many channels and ran before a reader did, the last one first."""
    ran: list[str] = []
    found: list[str] = []

    def is_maker(layer: nn.Module) -> bool:
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is None:
            return False
        return isinstance(layer, nn.Linear) or (weight.ndim == 1 and not list(layer.children()))

    with ExitStack() as hooks:
        for name, layer in model.module.named_modules():
            if is_maker(layer) and layer.get_parameter("weight").shape[0] == width:
                after = layer.register_forward_hook(lambda *_, name=name: ran.append(name))
                hooks.callback(after.remove)
        read = reading(model.module.get_submodule(reader), lambda _: found.extend(ran))
        hooks.enter_context(read)
        model(**model.example)
    yield from dict.fromkeys(reversed(found[-_TRIED:]))


def _changed(layer: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Give a layer other parameters; returns those that it had."""
    before = {name: layer.get_parameter(name) for name in parameters}
    for name, value in parameters.items():
        setattr(layer, name, value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False))
    return before


def _rows(parameters: Mapping[str, Tensor], s: Tensor) -> dict[str, Tensor]:
    return {name: value / (s[:, None] if value.ndim == 2 else s) for name, value in parameters.items()}


def _offset(parameters: Mapping[str, Tensor], s: Tensor) -> dict[str, Tensor]:
    """Gemma's norms multiply by 1 + w."""
    return {name: (1 + value) / s - 1 for name, value in parameters.items() if name == "weight"}


_RULES: Mapping[bool, tuple[_Rule, ...]] = {True: (_rows,), False: (_rows, _offset)}


def _same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return all(
        bool(torch.isfinite(found[name]).all())
        and float((found[name] - value).abs().amax()) <= _SAME * float(value.abs().amax())
        for name, value in wanted.items()
    )
