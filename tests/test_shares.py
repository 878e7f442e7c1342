"""Shares by sensitivity: as much goes as at uniform ratios, from where it costs least; against every combination."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.channels import channels
from edgepress.compress.data import Data
from edgepress.compress.groups import Group
from edgepress.compress.sensitivity import Judge
from edgepress.compress.shares import cost, descend, layer_costs, shares
from edgepress.compress.structured import StructuredPrune
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UsageError

from .quantize_check import chain, data_of, model_of, random, seeded


class Two(nn.Module):
    """Two feed-forward parts, of which the output hardly needs the second."""

    def __init__(self) -> None:
        super().__init__()
        self.much, self.little = (nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.much(x) + 0.01 * self.little(x)


@pytest.fixture(scope="module")
def two() -> tuple[Model, Data]:
    batches = [{"x": random(16, 16, seed=i)} for i in range(16)]
    return model_of(seeded(Two()), x=batches[0]["x"][:2]), data_of(*batches)


def weights(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def sizes(step: StructuredPrune, model: Model, data: Data) -> dict[str, int]:
    return {group.name: len(group.kept) for group in step.plan(model, data)}


def test_more_goes_where_it_costs_less_and_the_outputs_stay_nearer(two: tuple[Model, Data]) -> None:
    uniform, found = StructuredPrune(neurons=0.5), StructuredPrune(neurons=0.5, sensitivity="weights")
    assert sizes(uniform, *two) == {"much.0": 32, "little.0": 32}
    assert sizes(found, *two) == {"much.0": 48, "little.0": 16}
    plain, better = uniform(*two), found(*two)
    assert weights(better) <= weights(plain)
    judge = Judge(two[0], [{"x": random(64, 16, seed=99).numpy()}])
    assert judge(better.module)[0] < judge(plain.module)[0] / 2


def test_groups_with_a_ratio_of_their_own_keep_it(two: tuple[Model, Data]) -> None:
    step = StructuredPrune(neurons=0.5, ratios=("little.0=0.25",), sensitivity="weights")
    assert sizes(step, *two) == {"much.0": 32, "little.0": 48}


def test_the_same_comes_out_again(two: tuple[Model, Data]) -> None:
    first, second = (StructuredPrune(neurons=0.5, sensitivity="macs")(*two).module.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_where_uniform_shares_are_no_worse_they_are_kept(two: tuple[Model, Data]) -> None:
    model, data = two
    groups = StructuredPrune(neurons=0.5).plan(model, data)
    uniform = {group.name: 32 for group in groups}
    asked: list[Mapping[str, int]] = []

    def cut(kept: Mapping[str, int]) -> nn.Module:
        asked.append(kept)
        return model.module  # so nothing costs anything

    found = shares(model, data, groups, uniform, count=lambda group, ratio: int(64 * (1 - ratio)), cut=cut, macs=False)
    assert found == uniform
    alone = [kept for kept in asked if len(kept) == 1]
    assert sorted({kept["much.0"] for kept in alone if "much.0" in kept}) == [16, 32, 48]


def test_costs_are_the_weights_that_are_left_and_the_multiplications() -> None:
    net = chain(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 4))
    model = model_of(seeded(net), x=random(2, 1, 8, 8))
    groups = channels(model)
    plain, macs = (layer_costs(model, groups, macs=macs) for macs in (False, True))
    assert plain == {"layer.0": 144, "layer.2": 16 * 24 * 9, "layer.5": 24 * 16 * 4}
    positions = {"layer.0": 36, "layer.2": 16, "layer.5": 1}  # of each of the example's two samples
    assert macs == {name: 2 * positions[name] * plain[name] for name in plain}
    half = StructuredPrune(channels=0.5, importance="magnitude", refit=False)(model, Data()).module
    left = sum(half.get_submodule(name).get_parameter("weight").numel() for name in plain)
    assert cost(groups, {"layer.0": 8, "layer.2": 16}, plain) == pytest.approx(
        144 / 2 + 16 * 24 * 9 / 2 * 2 / 3 + 24 * 16 * 4 * 2 / 3
    )
    assert cost(groups, {"layer.0": 8, "layer.2": 12}, plain) != left  # 12 is no multiple of 8
    assert cost(groups, {"layer.0": 8, "layer.2": 16}, plain) == pytest.approx(left)


def group(name: str, size: int) -> Group:
    units = torch.arange(size)
    return Group(name, "neurons", size, tuple(range(size)), {name: units}, {}, "")


curves = st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3).map(sorted), min_size=1, max_size=4)


@given(curves, st.integers(0, 16))
def test_descending_stays_within_the_cost_and_near_the_best_of_all_combinations(table, most: int) -> None:
    """Against a walk over every combination of 8, 6, 4 and 2 units: worse by no more than one cut."""
    groups = [group(f"g{i}", 8) for i in range(len(table))]
    drops = {f"g{i}": dict(zip((6, 4, 2), map(float, row), strict=True)) for i, row in enumerate(table)}
    costs = {g.name: 8.0 for g in groups}
    limit = max(float(most), 2.0 * len(groups))
    found = descend(groups, drops, costs, limit)
    assert cost(groups, found, costs) <= limit

    def lost(state: Mapping[str, int]) -> float:
        return sum(({8: 0.0} | drops[name])[kept] for name, kept in state.items())

    every = [dict(zip(drops, kept, strict=True)) for kept in itertools.product((8, 6, 4, 2), repeat=len(groups))]
    best = min(lost(state) for state in every if cost(groups, state, costs) <= limit)
    assert best <= lost(found) <= best + max(curve[2] for curve in drops.values())


def test_what_cannot_be_right_is_refused(two: tuple[Model, Data]) -> None:
    with pytest.raises(UsageError, match="sensitivity = 'bytes'; expected one of none, weights, macs"):
        StructuredPrune(neurons=0.5, sensitivity="bytes")  # pyright: ignore[reportArgumentType]
    step = StructuredPrune(neurons=0.5, sensitivity="weights", importance="magnitude", refit=False)
    with pytest.raises(DataError, match="there are no samples to compare on"):
        step(two[0], replace(two[1], calibration=()))
