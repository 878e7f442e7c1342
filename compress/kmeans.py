"""k-means in one dimension: the few values that stand for many with the least squared error, `Σ (w − c(w))²`.

Lloyd's algorithm from centroids spread evenly over [min, max], as Han et al. (2016) found best for weights: few weights
are large, and they matter. Sorted values make the clusters intervals, and prefix sums give their means at once.
"""

import numpy as np

# Far more than it takes: every step lowers the error, and the clusters of numbers on a line settle soon.
_STEPS = 1000


def kmeans(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The palette, float32 (k,), in ascending order, and the index of each value in it, uint8 of the values' shape.

    Where a value is exactly 0, 0 is in the palette, and 0 is what it gets: pruned weights stay pruned. With at most k
    different values the palette holds them all. k is at most 256. No chance is in it: the same values, the same bits.

    >>> kmeans(np.array([1.0, 1.1, 5.0, 5.2]), 2)[1]
    array([0, 0, 1, 1], dtype=uint8)
    """
    x = np.sort(values, axis=None).astype(np.float64)
    different = x[np.concatenate([[True], x[1:] != x[:-1]])] if x.size else x
    zero = bool((different == 0).any())
    if different.size <= k:
        centroids = np.pad(different, (0, k - different.size), mode="edge" if x.size else "constant")
    else:
        centroids = _settle(x, np.linspace(x[0], x[-1], k), zero=zero)
    palette = centroids.astype(np.float32)
    middles = (palette[:-1].astype(np.float64) + palette[1:]) / 2
    return palette, np.searchsorted(middles, values).astype(np.uint8)


def _settle(x: np.ndarray, centroids: np.ndarray, *, zero: bool) -> np.ndarray:
    """Move the centroids until none moves any more; with `zero`, the one nearest to 0 is 0 and stays there."""
    if zero:
        centroids[np.abs(centroids).argmin()] = 0.0
    sums = np.concatenate([[0.0], np.cumsum(x)])
    for _ in range(_STEPS):
        moved = move(x, sums, centroids, zero=zero)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def move(x: np.ndarray, sums: np.ndarray, centroids: np.ndarray, *, zero: bool) -> np.ndarray:
    """One step of Lloyd: each centroid to the mean of the values that are nearest to it; the error never grows.

    `x` and `centroids` ascend, `sums[i]` is the sum of the first i values. A centroid without values goes to one of the
    values that are farthest from their own. With `zero`, a centroid at 0 stays.
    """
    edges = np.concatenate([[0], np.searchsorted(x, (centroids[:-1] + centroids[1:]) / 2, "right"), [x.size]])
    counts = np.diff(edges)
    means = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centroids)
    if zero:
        means[centroids == 0] = 0.0
    empty = np.flatnonzero((counts == 0) & ~(zero & (centroids == 0)))
    if empty.size:
        taken = counts > 0  # a cluster's farthest value is at one of its ends
        ends = np.concatenate([x[edges[:-1][taken]], x[edges[1:][taken] - 1]])
        far = np.argsort(-np.abs(ends - np.tile(means[taken], 2)), kind="stable")
        means[empty[: far.size]] = ends[far[: empty.size]]
    return np.sort(means)
