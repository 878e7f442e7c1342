"""Watch activations go by and say which range [low, high] to quantize. Memory does not grow with the data.

- minmax:      the range seen.
- percentile:  the range that holds a share p of the values, from a histogram.
- entropy:     the clip T that loses least information, argmin_T KL(P ‖ Q_T): 2048 bins (Migacz, "8-bit Inference with
               TensorRT", 2017).
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..runtime.errors import DataError

# Bins on each side of zero; a power of two, so that bins merge in pairs when the range grows.
_BINS = 2048
_LEVELS = 128
# The entropy of a few distinct values (pixels, one-hot inputs) is least when all but one are clipped away: bounded.
_CLIPPED = 0.01


class Observer(Protocol):
    """Sees an activation batch by batch, then names its range."""

    def update(self, x: np.ndarray) -> None: ...
    def range(self) -> tuple[float, float]: ...


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def update(self, x: np.ndarray) -> None:
        """x: floats of any shape; raises DataError for NaN or infinity."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError("an activation is NaN or infinite during calibration; check the data and the model")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[float, float]:
        """Raises DataError where nothing was seen."""
        if self.low > self.high:
            raise DataError("calibration saw no values; bring at least one batch")
        return self.low, self.high


class Histogram(MinMax):
    """Counts over [−limit, limit) in 2·2048 equal bins.

    The limit is the power of two above the largest magnitude; when it grows, bins merge in pairs. So all that is known
    in the end is the same, however the data was cut into batches and ordered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit = 0.0
        self.counts = np.zeros(2 * _BINS, np.int64)
        self.zeros = 0

    def update(self, x: np.ndarray) -> None:
        """x: floats of any shape; raises DataError for NaN or infinity."""
        super().update(x)
        self.zeros += x.size - int(np.count_nonzero(x))
        peak = max(abs(self.low), abs(self.high)) if x.size else 0.0
        if peak == 0.0:
            self.counts[_BINS] += x.size
            return
        if self.limit == 0.0:
            self.limit = 2.0 ** np.frexp(peak)[1]
        while peak >= self.limit:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, _BINS // 2)
            self.limit *= 2
        index = np.floor(np.multiply(x.ravel(), _BINS / self.limit, dtype=np.float64)).astype(np.int64) + _BINS
        self.counts += np.bincount(index, minlength=2 * _BINS)

    def clip(self, low: float, high: float) -> tuple[float, float]:
        """A range that does not reach past what was seen."""
        return max(low, self.low), min(high, self.high)


class Percentile(Histogram):
    """The central range that holds `share` of all values (0.9999: one in ten thousand is clipped)."""

    def __init__(self, share: float = 0.9999) -> None:
        super().__init__()
        self.share = share

    def range(self) -> tuple[float, float]:
        """Exact to one bin: 1/2048 of the power of two above the largest magnitude."""
        super().range()
        total = np.cumsum(self.counts)
        tail = (1 - self.share) / 2 * total[-1]
        step = self.limit / _BINS
        low = int(np.searchsorted(total, tail, side="right")) - _BINS
        high = int(np.searchsorted(total, total[-1] - tail, side="left")) + 1 - _BINS
        return self.clip(low * step, high * step)


class Entropy(Histogram):
    """The clip [−T, T] whose 128 levels lose least information about |x|.

    Exact zeros are not counted: they cost nothing at any T, and would drown the rest.
    """

    def range(self) -> tuple[float, float]:
        """T is a whole number of bins, from 128 to 2048 of them."""
        super().range()
        magnitudes = self.counts[_BINS:] + self.counts[:_BINS][::-1]
        magnitudes[0] -= self.zeros
        if not magnitudes.any():
            return self.low, self.high
        inside = np.cumsum(magnitudes) / magnitudes.sum()
        fewest = int(np.searchsorted(inside, 1 - _CLIPPED)) + 1
        used = int(np.flatnonzero(magnitudes)[-1]) + 1
        candidates = range(max(_LEVELS, fewest), used + 1)
        best = min(candidates, key=lambda bins: divergence(magnitudes, bins))
        limit = best * self.limit / _BINS
        return self.clip(-limit, limit)


def divergence(counts: np.ndarray, bins: int, levels: int = _LEVELS) -> float:
    """KL(P ‖ Q) of a histogram clipped to its first `bins`, and the same at `levels` levels.

    P has what lies beyond added to its last bin. Q spreads each level's mass over the bins of that level that are
    not empty.
    """
    p = counts[:bins].astype(np.float64)
    level = np.arange(bins) * levels // bins
    mass = np.bincount(level, weights=p, minlength=levels)
    filled = np.bincount(level, weights=p > 0, minlength=levels)
    q = np.where(p > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    p[-1] += counts[bins:].sum()
    p, q = p / p.sum(), q / max(q.sum(), 1.0)
    held = p > 0
    if (q[held] == 0).any():
        q = np.where(held, np.maximum(q, 1e-9), q)
    return float((p[held] * np.log(p[held] / q[held])).sum())


OBSERVERS: dict[str, Callable[[], Observer]] = {"minmax": MinMax, "percentile": Percentile, "entropy": Entropy}
