"""Ranges against what NumPy says of all values at once; statistics stream, and do not depend on how data is cut."""

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgepress.compress.observers import OBSERVERS, Entropy, Histogram, MinMax, Observer, Percentile, divergence
from edgepress.runtime.errors import DataError

BINS = 2048  # on each side of zero

finite = st.floats(-1e6, 1e6, width=32)
values = arrays.arrays(np.float32, st.integers(1, 300), elements=finite)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def watched(make: Callable[[], Observer], *batches: np.ndarray) -> tuple[float, float]:
    observer = make()
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer.range()


def bin_width(x: np.ndarray) -> float:
    """Of the histogram: the power of two above the largest magnitude, in 2048 parts."""
    peak = float(np.abs(x).max())
    return 2.0 ** (math.floor(math.log2(peak)) + 1) / BINS if peak else 0.0


# What all of them promise


@given(values, st.lists(st.integers(0, 300), max_size=5), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("method", OBSERVERS)
def test_the_range_does_not_depend_on_how_the_data_is_cut_and_ordered(
    method: str, x: np.ndarray, cuts: list[int], seed: int
) -> None:
    whole = watched(OBSERVERS[method], x)
    shuffled = np.random.default_rng(seed).permutation(x)
    assert watched(OBSERVERS[method], *np.split(shuffled, sorted(cuts))) == whole


@given(values)
@pytest.mark.parametrize("method", OBSERVERS)
def test_the_range_never_reaches_past_what_was_seen(method: str, x: np.ndarray) -> None:
    low, high = watched(OBSERVERS[method], x)
    assert float(x.min()) <= low <= high <= float(x.max())


@pytest.mark.parametrize("method", OBSERVERS)
def test_memory_does_not_grow_with_the_number_of_batches(method: str) -> None:
    batch = rng().standard_normal(20_000).astype(np.float32)

    def peak(batches: int) -> int:
        observer = OBSERVERS[method]()
        tracemalloc.start()
        try:
            for i in range(batches):
                observer.update(batch * (i + 1))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(50) < peak(2) + batch.nbytes  # 48 more batches cost less than one of them


@pytest.mark.parametrize("method", OBSERVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(method: str, bad: float) -> None:
    with pytest.raises(DataError, match="an activation is NaN or infinite during calibration"):
        watched(OBSERVERS[method], np.array([1.0, bad, 2.0]))


@pytest.mark.parametrize("method", OBSERVERS)
def test_nothing_seen_is_refused(method: str) -> None:
    for batches in ([], [np.zeros((0, 3))]):
        with pytest.raises(DataError, match="calibration saw no values"):
            watched(OBSERVERS[method], *batches)


@pytest.mark.parametrize("method", OBSERVERS)
def test_an_empty_batch_between_others_changes_nothing(method: str) -> None:
    a, b = rng().standard_normal((2, 50))
    assert watched(OBSERVERS[method], a, np.zeros(0), b) == watched(OBSERVERS[method], a, b)


@pytest.mark.parametrize("method", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, -3.0, 5.0, 1e-40, -1e30])
def test_a_constant_is_its_own_range(method: str, value: float) -> None:
    value = float(np.float32(value))
    assert watched(OBSERVERS[method], np.full(7, value), np.full((2, 3), value)) == (value, value)


@pytest.mark.parametrize("method", OBSERVERS)
def test_zeros_alone_and_then_more(method: str) -> None:
    x = rng().standard_normal(500)
    assert watched(OBSERVERS[method], np.zeros(100), x) == watched(
        OBSERVERS[method], np.concatenate([x, np.zeros(100)])
    )


@pytest.mark.parametrize("method", OBSERVERS)
def test_what_is_never_negative_has_no_negative_range(method: str) -> None:
    low, high = watched(OBSERVERS[method], np.maximum(rng().standard_normal(10_000), 0))
    assert low == 0
    assert high > 2
    low, _ = watched(OBSERVERS[method], rng().random(10_000) + 1)
    assert low >= 1


# MinMax


@given(st.lists(values, min_size=1, max_size=4))
def test_minmax_is_the_smallest_and_the_largest(batches: list[np.ndarray]) -> None:
    x = np.concatenate(batches)
    assert watched(MinMax, *batches) == (float(x.min()), float(x.max()))


# Percentile


@given(values, st.sampled_from([1 / 2, 7 / 8, 127 / 128, 8191 / 8192]))
def test_percentile_is_that_of_the_sorted_values_to_one_bin(x: np.ndarray, share: float) -> None:
    """At each end as many values are left out as fit into half of 1 − share."""
    ordered, left_out = np.sort(x.astype(np.float64)), math.floor((1 - share) / 2 * len(x))
    low, high = watched(lambda: Percentile(share), x)
    assert ordered[left_out] - bin_width(x) <= low <= ordered[left_out]
    assert ordered[-1 - left_out] <= high <= ordered[-1 - left_out] + bin_width(x)


def test_percentile_leaves_out_one_outlier_in_many_and_none_in_few() -> None:
    many = np.concatenate([rng().standard_normal(100_000), [1000.0]])
    assert watched(Percentile, many)[1] < 10
    assert watched(Percentile, many[-50:])[1] == 1000.0


# Entropy


def slow_divergence(counts: list[int], bins: int, levels: int) -> float:
    """KL(P ‖ Q), by the book: P keeps the outliers in its last bin; Q shares out each level over its filled bins."""
    p = [float(c) for c in counts[:bins]]
    q = [0.0] * bins
    for level in range(levels):
        inside = [i for i in range(bins) if i * levels // bins == level]
        filled = [i for i in inside if counts[i] > 0]
        for i in filled:
            q[i] = sum(counts[j] for j in inside) / len(filled)
    p[-1] += sum(counts[bins:])
    total_p, total_q = sum(p), sum(q)
    result = 0.0
    for i in range(bins):
        if p[i] > 0:
            share = q[i] / total_q if total_q else 0.0
            result += p[i] / total_p * math.log(p[i] / total_p / (share or 1e-9))
    return result


@given(st.lists(st.integers(0, 20), min_size=8, max_size=40).filter(any), st.integers(2, 8), st.data())
def test_the_divergence_is_that_of_the_book(counts: list[int], levels: int, data: st.DataObject) -> None:
    bins = data.draw(st.integers(levels, len(counts)))
    expected = slow_divergence(counts, bins, levels)
    assert divergence(np.array(counts), bins, levels) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nothing_is_lost_where_each_bin_has_its_level() -> None:
    assert divergence(np.array([5, 0, 3, 9]), 4, levels=4) == pytest.approx(0)


@pytest.mark.parametrize("kind", ["normal", "laplace", "positive", "few"])
def test_entropy_takes_the_clip_of_least_divergence(kind: str) -> None:
    x = {
        "normal": rng().standard_normal(20_000),
        "laplace": rng().laplace(size=20_000),
        "positive": np.maximum(rng().standard_normal(20_000), 0),
        "few": rng().standard_normal(40),
    }[kind].astype(np.float32)
    width = bin_width(x)
    index = np.floor(np.abs(x[x != 0]).astype(np.float64) / width).astype(int)
    counts = np.bincount(index, minlength=BINS)
    clipped = [counts[bins:].sum() / counts.sum() for bins in range(BINS + 1)]
    candidates = [bins for bins in range(128, int(index.max()) + 2) if clipped[bins] <= 0.01]
    best = min(candidates, key=lambda bins: divergence(counts, bins))
    low, high = watched(Entropy, x)
    assert high == min(best * width, float(x.max()))
    assert low == max(-best * width, float(x.min()))


def test_entropy_clips_an_outlier_and_keeps_a_uniform_range() -> None:
    normal = rng().standard_normal(50_000)
    assert watched(Entropy, np.append(normal, 60.0))[1] < 8
    uniform = rng().uniform(-1, 1, 50_000)
    assert watched(Entropy, uniform)[1] > 0.98


def test_entropy_clips_no_more_than_one_value_in_a_hundred() -> None:
    """A few distinct values, as of one-hot inputs, would lose least with all but the smallest clipped away."""
    for x in (np.tile([0.0, 0.0625, 1.0], 1000), np.repeat([0.125, 0.25, 5.0], 10), np.eye(30)):
        low, high = watched(Entropy, x)
        assert ((x < low) | (x > high)).mean() <= 0.01


def test_entropy_of_sparse_values_is_that_of_the_others() -> None:
    """Exact zeros cost nothing at any clip."""
    x = rng().standard_normal(5000)
    sparse = np.concatenate([x, np.zeros(1_000_000)])
    assert watched(Entropy, sparse) == watched(Entropy, x)


# The histogram under both


@given(st.lists(values, min_size=1, max_size=4))
def test_the_histogram_counts_as_numpy_does(batches: list[np.ndarray]) -> None:
    observer = Histogram()
    for batch in batches:
        observer.update(batch)
    x = np.concatenate(batches).astype(np.float64)
    if observer.limit:
        expected, _ = np.histogram(x, 2 * BINS, (-observer.limit, observer.limit))
        assert np.array_equal(observer.counts, expected)
        assert np.abs(x).max() < observer.limit <= 2 * np.abs(x).max()
    assert observer.counts.sum() == len(x)
    assert observer.zeros == (x == 0).sum()
