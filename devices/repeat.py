"""Repeat: the same bench in fresh processes; medians that lie apart say how far a figure is to be trusted.

A process gets its memory, its cores and its share of the caches anew, so two processes differ by more than two rounds.
"""

from collections.abc import Sequence
from statistics import median

from ..runtime.artifact import Artifact
from ..runtime.errors import UsageError
from ..runtime.machine import Doubt
from ..runtime.timing import Timing
from .benching import Bench
from .words import show_ms

APART = 0.03  # what an idle machine keeps within
# The doubts of a run that may be why.
_REASONS = ("throttled", "other-load", "steal", "governor", "noisy")


def repeat(bench: Bench, artifacts: Sequence[Artifact], times: int, runs: int = 100) -> list[tuple[Timing, ...]]:
    """Each artifact's timings, of `times` processes each; the artifacts take turns, so that a drift meets all.

    Raises UsageError for less than 2 processes.
    """
    if times < 2:
        raise UsageError(f"--repeat {times}: expected at least 2 runs, or there is nothing to compare")
    found: list[list[Timing]] = [[] for _ in artifacts]
    for _ in range(times):
        for artifact, timings in zip(artifacts, found, strict=True):
            timings.append(bench(artifact, "--runs", str(runs), "--limit", "10"))
    return [tuple(timings) for timings in found]


def spread(medians: Sequence[float]) -> float:
    """How far apart the medians lie: the largest less the smallest, over the middle one."""
    return (max(medians) - min(medians)) / median(medians)


def doubts(timings: Sequence[Timing]) -> tuple[Doubt, ...]:
    """None where the medians lie within APART; else one that says how far apart, and what was seen that may be why."""
    medians = [timing.p50 for timing in timings]
    if spread(medians) <= APART:
        return ()
    seen = dict.fromkeys(d.text for code in _REASONS for t in timings for d in t.doubts if d.code == code)
    why = f"perhaps since {next(iter(seen))}" if seen else "nothing that was looked at says why"
    return (Doubt("repeat", f"p50 {show_repeats(medians)}, expected within {APART:.0%}; {why}"),)


def show_repeats(medians: Sequence[float]) -> str:
    """The medians in words.

    >>> show_repeats([2.0, 2.1])
    'of 2 processes: 2 ms to 2.1 ms, 4.9 % apart'
    """
    lowest, highest = show_ms(min(medians)), show_ms(max(medians))
    return f"of {len(medians)} processes: {lowest} to {highest}, {100 * spread(medians):.1f} % apart"
