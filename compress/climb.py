"""Choices under a budget: which layers are worth their bytes.

    min Σ_l d(l, o_l)      over a choice o_l for each layer l,      Σ_l bytes(l, o_l) <= room

All layers begin with their smallest choice; then, again and again, the one that gains most for its bytes is raised.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to have a layer: its bytes in a file, the drop that it costs, and the module that takes its place."""

    name: str
    bytes: int
    drop: float
    layer: nn.Module


def ladder(choices: Iterable[Choice]) -> list[Choice]:
    """The choices from the smallest up; a larger one that is no better is none."""
    ordered = sorted(choices, key=lambda choice: (choice.bytes, choice.drop))
    return [c for i, c in enumerate(ordered) if all(c.drop < smaller.drop for smaller in ordered[:i])]


def climb(ladders: Mapping[str, list[Choice]], room: float) -> Iterator[dict[str, Choice]]:
    """The choices after each raise: first the smallest, then whatever gains most drop for its bytes and still fits."""
    state = {name: choices[0] for name, choices in ladders.items()}
    left = room - sum(choice.bytes for choice in state.values())
    yield dict(state)
    while True:
        raises = [
            ((now.drop - choice.drop) / (choice.bytes - now.bytes), name, choice)
            for name, now in state.items()
            for choice in ladders[name]
            if now.bytes < choice.bytes <= now.bytes + left
        ]
        if not raises:
            return
        _, name, choice = max(raises, key=lambda r: r[0])
        left -= choice.bytes - state[name].bytes
        state[name] = choice
        yield dict(state)
