import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.devices.pareto import front

# Few values, so that equal ones come up.
points = st.integers(1, 3).flatmap(
    lambda axes: st.lists(st.tuples(*[st.integers(0, 4) | st.just(math.nan)] * axes), max_size=12)
)


def dominates(q, p) -> bool:
    """The definition: nowhere worse, somewhere better."""
    return all(a <= b for a, b in zip(q, p, strict=True)) and q != p


def whole(point) -> bool:
    return not any(math.isnan(x) for x in point)


@given(points)
def test_a_point_is_on_the_front_exactly_where_no_other_dominates_it(found):
    for point, on in zip(found, front(found), strict=True):
        beaten = any(dominates(other, point) for other in found if whole(other))
        assert on == (whole(point) and not beaten)


@given(points)
def test_what_is_behind_is_beaten_by_a_point_of_the_front(found):
    on = front(found)
    best = [point for point, first in zip(found, on, strict=True) if first]
    for point, first in zip(found, on, strict=True):
        assert first or not whole(point) or any(dominates(q, point) for q in best)
    assert not any(dominates(q, p) for q in best for p in best)


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(found, random):
    order = list(range(len(found)))
    random.shuffle(order)
    on = front(found)
    assert front([found[i] for i in order]) == tuple(on[i] for i in order)


def test_equal_points_are_on_the_front_together():
    assert front([(1, 2), (1, 2), (2, 2)]) == (True, True, False)
    assert front([]) == ()


def test_points_of_different_lengths_are_a_mistake():
    with pytest.raises(ValueError):
        front([(1, 2), (1,)])
