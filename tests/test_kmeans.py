"""k-means on a line: against a slow Lloyd, scikit-learn, and what may be said of any result."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from edgepress.compress.kmeans import kmeans, move

numbers = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=40)
sizes = st.sampled_from([2, 3, 4, 8, 16])


def weights(seed: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def error(values: np.ndarray, centroids: np.ndarray) -> float:
    """`Σ min_c (w − c)²`."""
    return float(((values[:, None].astype(np.float64) - centroids) ** 2).min(1).sum())


def slow_lloyd(values: np.ndarray, k: int) -> np.ndarray:
    """Lloyd's algorithm, each distance looked at, from evenly spread centroids."""
    centroids = np.linspace(values.min(), values.max(), k, dtype=np.float64)
    for _ in range(1000):
        nearest = np.abs(values[:, None] - centroids).argmin(1)
        moved = [
            values[nearest == c].mean(dtype=np.float64) if (nearest == c).any() else centroids[c] for c in range(k)
        ]
        if np.array_equal(moved, centroids):
            break
        centroids = np.array(moved)
    return centroids


@given(seed=st.integers(0, 99), k=st.sampled_from([2, 4, 8]))
def test_it_finds_what_a_slow_lloyd_finds(seed: int, k: int):
    values = weights(seed)
    palette, _ = kmeans(values, k)
    np.testing.assert_allclose(palette, slow_lloyd(values, k), rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 9), k=st.sampled_from([4, 16]))
def test_it_finds_what_scikit_learn_finds(seed: int, k: int):
    values = np.random.default_rng(seed).beta(2, 3, 2000)  # no centroid starts between two values
    start = np.linspace(values.min(), values.max(), k)[:, None]
    found = KMeans(k, init=start, n_init=1, max_iter=1000, tol=0, algorithm="lloyd").fit(values[:, None])
    palette, index = kmeans(values, k)
    np.testing.assert_allclose(palette, np.sort(found.cluster_centers_.ravel()), rtol=1e-4, atol=1e-5)
    assert np.square(values - palette[index]).sum() <= found.inertia_ * (1 + 1e-6)


@given(numbers, sizes, st.booleans())
def test_no_step_makes_the_error_larger(values: list[float], k: int, zero: bool):
    x = np.sort(np.array(values, np.float32)).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(x)])
    centroids = np.linspace(x[0], x[-1], k)
    if zero:
        centroids[np.abs(centroids).argmin()] = 0
    steps = [centroids]
    for _ in range(30):
        steps.append(move(x, sums, steps[-1], zero=zero))
        assert (np.diff(steps[-1]) >= 0).all()
        assert not zero or (steps[-1] == 0).any()
    errors = [error(x, step) for step in steps]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


@given(numbers, sizes)
def test_each_value_gets_its_nearest_of_the_palette(values: list[float], k: int):
    array = np.array(values, np.float32)
    palette, index = kmeans(array, k)
    assert palette.shape == (k,)
    assert palette.dtype == np.float32
    assert index.dtype == np.uint8
    distances = np.abs(array[:, None].astype(np.float64) - palette)
    np.testing.assert_array_equal(distances[np.arange(len(array)), index], distances.min(1))


@given(numbers, st.integers(2, 6))
def test_a_palette_with_room_for_all_values_loses_nothing(values: list[float], spare: int):
    array = np.array(values, np.float32)
    palette, index = kmeans(array, len(set(values)) + spare)
    np.testing.assert_array_equal(palette[index], array)


@given(numbers, st.integers(1, 40), sizes)
def test_zeros_stay_exactly_zero(values: list[float], zeros: int, k: int):
    array = np.array([*values, *[0.0] * zeros], np.float32)
    palette, index = kmeans(array, k)
    assert not palette[index[array == 0]].any()


def test_no_centroid_is_left_without_values():
    values = np.concatenate([weights(0), [1000.0]]).astype(np.float32)  # an even spread has 15 centroids between
    palette, index = kmeans(values, 16)
    assert set(index.tolist()) == set(range(16))
    assert error(values, palette) < 0.02 * error(values, np.linspace(values.min(), 1000, 16))


def test_the_same_values_give_the_same_bits_in_any_shape_and_order():
    values = weights(1, 600)
    palette, index = kmeans(values, 16)
    turned, reshaped = kmeans(values[::-1], 16), kmeans(values.reshape(20, 30), 16)
    np.testing.assert_array_equal(turned[0], palette)
    np.testing.assert_array_equal(turned[1], index[::-1])
    np.testing.assert_array_equal(reshaped[1], index.reshape(20, 30))


def test_no_values_have_a_palette_of_nothing():
    palette, index = kmeans(np.zeros((0, 3), np.float32), 4)
    assert not palette.any()
    assert index.shape == (0, 3)
