"""Sweep: how many threads a model is fastest with, and what a larger batch gives: tried, not guessed.

More threads are not always faster: two halves of a small layer wait longer for each other than either computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.artifact import Artifact
from ..runtime.errors import UsageError
from .benching import Bench
from .words import show_ms, show_threads

SAME = 0.03  # of two counts of threads that lie so near, the smaller one is taken
_ALL = 8  # cores up to which each count is tried; of more cores the doubles
_SHORT = ("--runs", "30", "--limit", "3")


@dataclass(frozen=True)
class Tried:
    """What was tried, and the median latency in ms; `throughput` are samples per second, one call after the other."""

    threads: int | None
    batch: int
    p50: float
    throughput: float


def try_threads(bench: Bench, artifact: Artifact) -> tuple[Tried, ...]:
    """1, 2, … threads up to the device's cores, each in processes of its own, up and down again; the better counts.

    >>> with benching([artifact], device) as bench:
    ...     best(try_threads(bench, artifact)).threads
    3
    """
    first = bench(artifact, "--threads", "1", *_SHORT)
    counts = thread_counts(first.machine.cores)
    order = [*counts[1:], *reversed(counts)]
    timings = [first, *(bench(artifact, "--threads", str(count), *_SHORT) for count in order)]
    medians = {count: min(t.p50 for t in timings if t.threads == count) for count in counts}
    return tuple(Tried(count, first.batch, p50, 1000 * first.batch / p50) for count, p50 in medians.items())


def best(tried: Sequence[Tried]) -> Tried:
    """The fastest, or one with fewer threads that is as fast within SAME: the cores that it leaves are worth more."""
    fastest = min(one.p50 for one in tried)
    return next(one for one in tried if one.p50 <= (1 + SAME) * fastest)


def try_batches(bench: Bench, artifact: Artifact, batches: Sequence[int]) -> tuple[Tried, ...]:
    """The latency of a call with so many samples, by batch. The device refuses a model without a free first axis."""
    timings = [bench(artifact, "--batch", str(batch), *_SHORT) for batch in batches]
    return tuple(Tried(t.threads, t.batch, t.p50, t.throughput) for t in timings)


def thread_counts(cores: int) -> tuple[int, ...]:
    """What is tried on so many cores.

    >>> thread_counts(24)
    (1, 2, 3, 4, 5, 6, 7, 8, 16, 24)
    """
    doubles = [2**power for power in range(4, cores.bit_length()) if 2**power < cores]
    return tuple(dict.fromkeys([*range(1, min(cores, _ALL) + 1), *doubles, cores]))


def read_batches(text: str) -> tuple[int, ...]:
    """`1,4,16` as numbers. Raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--batch {text}: expected numbers from 1 on with commas between, as 1,4,16")
    return tuple(dict.fromkeys(map(int, parts)))


def show_tried(tried: Sequence[Tried]) -> list[str]:
    """A line for each.

    >>> show_tried([Tried(2, 16, 3.1, 5161.0)])
    ['2 threads, batch 16: 3.1 ms, 5161 samples/s']
    """
    return [
        f"{show_threads(one.threads)}, batch {one.batch}: {show_ms(one.p50)}, {one.throughput:.0f} samples/s"
        for one in tried
    ]
