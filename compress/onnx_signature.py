"""What an operator's function takes, read from its signature: the check of a whole graph before any work is done."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

TENSOR, LITERAL, VALUE = "tensor", "literal", "value"  # how a constant is handed to a parameter


@dataclass(frozen=True)
class Signature:
    """`kinds` of the positional parameters, the last one `repeated` or not; `choices` of each attribute, or None."""

    kinds: tuple[str, ...]
    defaults: tuple[Any, ...]
    required: int
    repeated: bool
    choices: Mapping[str, tuple[Any, ...] | None]

    def kind(self, position: int) -> str:
        """How the input at a position wants its constants."""
        return self.kinds[min(position, len(self.kinds) - 1)]

    def problem(self, inputs: int, attributes: Mapping[str, Any]) -> str:
        """What of a node's inputs and attributes the function does not know, or `""`."""
        for name, value in attributes.items():
            if name not in self.choices:
                return f"attribute {name}"
            choices = self.choices[name]
            if choices is not None and value not in choices:
                return f"{name}={value!r}"
        return f"{inputs} inputs" if inputs > len(self.kinds) and not self.repeated else ""


@cache
def signature(function: Callable[..., Any]) -> Signature:
    """Read a function's signature; one of torch's built-ins, which have none, takes one tensor and no attributes."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = get_type_hints(function)
    except (ValueError, TypeError):
        return Signature((TENSOR,), (inspect.Parameter.empty,), 1, False, {})
    repeated = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    inputs = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] or repeated
    return Signature(
        kinds=tuple(_kind(hints.get(p.name, Any)) for p in inputs),
        defaults=tuple(p.default for p in inputs),
        required=sum(p.default is p.empty for p in inputs if p not in repeated),
        repeated=bool(repeated),
        # an input that was an attribute in older opsets is taken by its name too
        choices={p.name: _choices(hints.get(p.name, Any)) for p in parameters if p not in repeated},
    )


def _kind(hint: Any) -> str:
    if hint is Any:
        return VALUE
    return TENSOR if hint is Tensor or Tensor in get_args(hint) else LITERAL


def _choices(hint: Any) -> tuple[Any, ...] | None:
    return get_args(hint) if get_origin(hint) is Literal else None
