"""Choices under a budget: against a walk over every combination."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.compress.climb import Choice, climb, ladder

choices = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100)), min_size=1, max_size=3)


@given(st.lists(choices, min_size=1, max_size=4), st.integers(0, 30))
def test_greedy_raises_stay_in_the_room_and_end_near_the_best_of_all_choices(table, extra: int) -> None:
    """Against a walk over every combination: no worse than it, but for one raise that did not fit."""
    ladders = {}
    for i, pairs in enumerate(table):
        ladders[f"l{i}"] = ladder(Choice(f"{size}", size, float(cost), nn.Identity()) for size, cost in pairs)
    room = sum(kept[0].bytes for kept in ladders.values()) + extra
    states = list(climb(ladders, room))
    drops = [sum(c.drop for c in state.values()) for state in states]
    assert drops == sorted(drops, reverse=True)
    assert all(sum(c.bytes for c in state.values()) <= room for state in states)
    every = itertools.product(*ladders.values())
    best = min(math.fsum(c.drop for c in combo) for combo in every if sum(c.bytes for c in combo) <= room)
    largest = max(kept[0].drop - kept[-1].drop for kept in ladders.values())
    assert best <= drops[-1] <= best + largest


@given(choices)
def test_a_ladder_rises_in_bytes_and_falls_in_drop(pairs) -> None:
    found = ladder(Choice("", size, float(cost), nn.Identity()) for size, cost in pairs)
    assert all(a.bytes < b.bytes and a.drop > b.drop for a, b in itertools.pairwise(found))
    assert {found[0].bytes, found[-1].drop} == {min(size for size, _ in pairs), min(cost for _, cost in pairs)}
