"""Pareto: of several points those that no other one beats on every axis."""

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """For each point whether it is on the Pareto front, less being better on every axis.

    q dominates p where q_i ≤ p_i for all i, and q_i < p_i for one; the front is what nothing dominates. Equal points
    are on it together. A point with NaN is never on it, and dominates none.

    >>> front([(1, 9), (5, 5), (6, 6)])
    (True, True, False)
    """
    numbers = [point for point in points if not _has_nan(point)]
    return tuple(not _has_nan(p) and not any(_dominates(q, p) for q in numbers) for p in points)


def _dominates(q: Sequence[float], p: Sequence[float]) -> bool:
    pairs = list(zip(q, p, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _has_nan(point: Sequence[float]) -> bool:
    return any(x != x for x in point)
