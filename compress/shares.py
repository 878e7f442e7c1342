"""Shares by sensitivity: how many units each group keeps, so that as much goes as at uniform ratios and less is lost.

    min Σ_g d(g, k_g)      over the units k_g that each group keeps,      Σ_l cost(l, k) <= Σ_l cost(l, uniform)

d(g, k) is how far the outputs move where the group g alone is cut to k units, at half of its uniform ratio, at that
ratio, and at half more (Li et al., ICLR 2017, looked at such curves). cost is in weights or in multiplications. All
groups begin whole; again and again the cut that costs the least drop for what it takes away is made.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from .data import Data
from .groups import Group
from .sensitivity import Judge, spread

# Of the uniform ratio; what would be a ratio of 1 or more stops short of it.
LEVELS, _MOST = (0.5, 1.0, 1.5), 0.9


def shares(
    model: Model,
    data: Data,
    groups: Sequence[Group],
    uniform: Mapping[str, int],
    *,
    count: Callable[[Group, float], int],
    cut: Callable[[Mapping[str, int]], nn.Module],
    macs: bool,
) -> dict[str, int]:
    """How many units each of the groups keeps. `uniform` are their numbers at the uniform ratios.

    `count(group, ratio)` is how many stay where this share of a group goes, `cut(kept)` the module with these groups
    cut to so many units. What was found is held against the uniform numbers, both cut at once, for single drops do not
    add up exactly; the better is returned. Raises DataError where there are no calibration samples.
    """
    judge = Judge(model, spread(list(data.calibration)))
    costs = layer_costs(model, groups, macs=macs)
    curves: dict[str, dict[int, float]] = {}
    for index, group in enumerate(groups, 1):
        data.tell(f"structured, sensitivity: group {index} of {len(groups)}, {group.name}")
        ratio = 1 - uniform[group.name] / group.size
        levels = {count(group, min(level * ratio, max(ratio, _MOST))) for level in LEVELS} - {group.size}
        curves[group.name] = {kept: judge(cut({group.name: kept}))[0] for kept in levels}
    found = descend(groups, curves, costs, cost(groups, uniform, costs))
    return found if judge(cut(found))[0] < judge(cut(uniform))[0] else dict(uniform)


def descend(
    groups: Sequence[Group], curves: Mapping[str, Mapping[int, float]], costs: Mapping[str, float], most: float
) -> dict[str, int]:
    """Cut from whole groups down until all cost `most` or less; `curves[group][k]` is the drop at k units, k < size."""
    state = {group.name: group.size for group in groups}
    now = cost(groups, state, costs)
    while now > most:
        cuts: list[tuple[float, str, int, float]] = []
        for name, kept in state.items():
            for fewer, drop in curves[name].items():
                after = cost(groups, state | {name: fewer}, costs)
                if fewer < kept and after < now:
                    cuts.append(((drop - curves[name].get(kept, 0.0)) / (now - after), name, fewer, after))
        if not cuts:
            break
        _, name, kept, now = min(cuts)
        state[name] = kept
    return state


def cost(groups: Sequence[Group], kept: Mapping[str, int], costs: Mapping[str, float]) -> float:
    """What all layers of the groups cost together: each by the outputs and by the inputs that it still has."""
    total = dict(costs)
    for group in groups:
        share = kept[group.name] / group.size
        for name, units in (*group.rows.items(), *group.columns.items()):
            total[name] *= float((units < 0).float().mean() + share * (units >= 0).float().mean())
    return sum(total.values())


def layer_costs(model: Model, groups: Sequence[Group], *, macs: bool) -> dict[str, float]:
    """The weights of each layer, or its multiplications for the model's example."""
    names = dict.fromkeys(name for group in groups for name in (*group.rows, *group.columns))
    layers = {name: model.module.get_submodule(name) for name in names}
    weights = {name: float(layer.get_parameter("weight").numel()) for name, layer in layers.items()}
    if not macs:
        return weights
    positions = dict.fromkeys(names, 0.0)

    def count(name: str, y: Tensor) -> None:
        axis = -1 - len(getattr(layers[name], "kernel_size", ()))
        positions[name] += y.numel() / y.shape[axis]

    with evaluating(model.module), ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(lambda _, __, y, name=name: count(name, y))  # pyright: ignore[reportArgumentType]
            hooks.enter_context(hook)
        model(**model.example)
    return {name: weights[name] * positions[name] for name in names}
