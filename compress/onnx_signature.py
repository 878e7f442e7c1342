"""What an operator's function takes, read from its signature: the check of a whole graph before any work is done."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

# How a constant is handed to a parameter: as a tensor, as a Python number or list, or as a list only where it is small.
TENSOR, LITERAL, VALUE = "tensor", "literal", "value"


@dataclass(frozen=True)
class Parameter:
    """`choices` are the values it may have, where they are few; a `repeated` one takes all inputs from its place on."""

    name: str
    kind: str
    default: Any
    choices: tuple[Any, ...] = ()
    repeated: bool = False

    @property
    def required(self) -> bool:
        """True where nothing stands in for it."""
        return self.default is inspect.Parameter.empty and not self.repeated


@dataclass(frozen=True)
class Signature:
    """`inputs` come by position; an attribute may be any parameter: in older opsets some of the inputs were."""

    inputs: tuple[Parameter, ...]
    parameters: Mapping[str, Parameter]

    def kind(self, position: int) -> str:
        """How the input at a position wants its constants."""
        return self.inputs[min(position, len(self.inputs) - 1)].kind

    def default(self, position: int) -> Any:
        """What stands in for an absent input."""
        return self.inputs[position].default

    def problem(self, inputs: Sequence[str], attributes: Mapping[str, Any]) -> str:
        """What of a node's inputs (absent ones `""`) and attributes does not fit, or `""`."""
        for name, value in attributes.items():
            if name not in self.parameters or self.parameters[name].repeated:
                return f"attribute {name}"
            if self.parameters[name].choices and value not in self.parameters[name].choices:
                return f"{name}={value!r}"
        if len(inputs) > len(self.inputs) and not self.inputs[-1].repeated:
            return f"{len(inputs)} inputs"
        given = {p.name for p, name in zip(self.inputs, inputs, strict=False) if name} | set(attributes)
        missing = next((p.name for p in self.parameters.values() if p.required and p.name not in given), "")
        return f"no {missing}" if missing else ""


@cache
def signature(function: Callable[..., Any]) -> Signature:
    """Read a function's signature; one of torch's built-ins, which tell none, takes one tensor and no attributes.

    >>> signature(softmax).problem(["x"], {"axes": [1]})
    'attribute axes'
    """
    try:
        raw, hints = inspect.signature(function).parameters.values(), get_type_hints(function)
    except (ValueError, TypeError):
        raw, hints = [inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD)], {"input": Tensor}
    parameters = {p.name: _parameter(p, hints.get(p.name, Any)) for p in raw}
    inputs = tuple(parameters[p.name] for p in raw if p.kind is not p.KEYWORD_ONLY)
    return Signature(inputs, parameters)


def _parameter(raw: inspect.Parameter, hint: Any) -> Parameter:
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return Parameter(raw.name, _kind(hint), raw.default, choices, raw.kind is raw.VAR_POSITIONAL)


def _kind(hint: Any) -> str:
    if hint is Any:
        return VALUE
    return TENSOR if hint is Tensor or Tensor in get_args(hint) else LITERAL
