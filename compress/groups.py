"""Group: what structured pruning cuts together, and the table of what will be cut, before the cut.

A unit (a neuron, a head, a channel) is some rows of the layers that write it and some columns of those that read it.
Where k of them are cut, all of these tensors become smaller by the same k units, and nothing else changes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ..runtime.errors import UsageError


@dataclass(frozen=True, eq=False)
class Group:
    """`size` units of a `kind` at the layer `name`, and the ones that are `kept`, in rising order.

    `rows[layer]` says of each output of a layer which unit it is, int64 [out]; `columns[layer]` of each input, int64
    [in]; -1 is none of them. Whole layers (kind "layers") have neither: `name` is the list that holds them. `why` says
    what kept the group whole against the setting.
    """

    name: str
    kind: str
    size: int
    kept: tuple[int, ...]
    rows: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]
    why: str = ""

    @property
    def cut(self) -> int:
        """How many units go."""
        return self.size - len(self.kept)


def outputs_left(name: str, groups: Sequence[Group]) -> Tensor | None:
    """The outputs that a layer still has after the cut, int64; None where it is in no group's rows."""
    held = [_held(group.rows[name], group.kept) for group in groups if name in group.rows]
    return torch.stack(held).all(0).nonzero().squeeze(1) if held else None


def inputs_left(name: str, groups: Sequence[Group]) -> Tensor | None:
    """The inputs that a layer still has after the cut, int64; None where it is in no group's columns."""
    held = [_held(group.columns[name], group.kept) for group in groups if name in group.columns]
    return torch.stack(held).all(0).nonzero().squeeze(1) if held else None


def _held(units: Tensor, kept: Sequence[int]) -> Tensor:
    return (units < 0) | torch.isin(units, torch.tensor(kept))


def table(groups: Sequence[Group]) -> str:
    """A line a group: layer, kind, from -> to, the layers that are cut with it.

    >>> print(table(plan))
    encoder.layer.0.intermediate.dense  neurons  1536 -> 768  with encoder.layer.0.output.dense
    """
    cells = [(g.name, g.kind, f"{g.size} -> {len(g.kept)}", _remark(g)) for g in groups]
    widths = [max(len(row[i]) for row in cells) for i in range(3)] if cells else []
    return "\n".join("  ".join((*map(str.ljust, row[:3], widths), row[3])).rstrip() for row in cells)


def _remark(group: Group) -> str:
    others = [name for name in dict.fromkeys((*group.rows, *group.columns)) if name != group.name]
    return group.why or (f"with {', '.join(others)}" if others and group.cut else "")


def summary(groups: Sequence[Group]) -> str:
    """The same in a few words: "neurons 9216 -> 4608 in 6 groups"."""
    parts = []
    for kind in dict.fromkeys(group.kind for group in groups if group.cut):
        found = [group for group in groups if group.kind == kind and group.cut]
        sizes = f"{sum(g.size for g in found)} -> {sum(len(g.kept) for g in found)}"
        parts.append(f"{kind} {sizes}" + (f" in {len(found)} groups" if len(found) > 1 else ""))
    return ", ".join(parts)


def count_kept(size: int, ratio: float, multiple: int = 1) -> int:
    """How many of `size` units stay where `ratio` shall go: rounded up to a multiple, never 0, never more than all.

    >>> count_kept(1536, 0.6, 8)
    616
    """
    kept = math.ceil((1 - ratio) * size - 1e-6)
    return min(size, math.ceil(kept / multiple) * multiple)


def refuse_ratio(who: str, name: str, ratio: float) -> None:
    """Raises UsageError for a share that cannot be cut; a NaN is none."""
    if not 0 <= ratio < 1:
        raise UsageError(f"{who}: {name} = {ratio}; expected the share to cut, from 0 (nothing) to less than 1")


def read_ratios(who: str, ratios: Sequence[str]) -> dict[str, float]:
    """`("*.layer.0.*=0.25",)` as `{"*.layer.0.*": 0.25}`. Raises UsageError for what is no pattern=ratio."""
    found = {}
    for text in ratios:
        pattern, _, number = text.rpartition("=")
        try:
            found[pattern.strip()] = float(number)
        except ValueError as error:
            raise UsageError(f"{who}: ratios has {text!r}; expected pattern=ratio, as '*.layer.0.*=0.25'") from error
        if not pattern.strip():
            raise UsageError(f"{who}: ratios has {text!r}; expected pattern=ratio, as '*.layer.0.*=0.25'")
        refuse_ratio(who, f"ratios {pattern.strip()!r}", found[pattern.strip()])
    return found


def ratio_of(name: str, ratios: Mapping[str, float], default: float) -> float:
    """The ratio of the first pattern that fits a group's name, or the kind's own."""
    return next((ratio for pattern, ratio in ratios.items() if fnmatchcase(name, pattern)), default)


def refuse_unmatched(who: str, ratios: Mapping[str, float], names: Sequence[str]) -> None:
    """Raises UsageError for a pattern that fits no group: a misspelt name must not pass in silence."""
    for pattern in ratios:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = f"names look like {', '.join(names[:3])}" if names else "the model has nothing that can be cut"
            raise UsageError(f"{who}: the pattern {pattern!r} in ratios fits no group; {some}")
