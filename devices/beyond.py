"""Beyond one measurement: what a report may look at besides: threads, batches, repetitions, minutes without a pause."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.artifact import Artifact
from .benching import benching
from .device import Device
from .lasting import sustained
from .measure import Row
from .repeat import doubts, repeat
from .sweep import Tried, best, try_batches, try_threads

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What is asked for: batches to try, how many processes repeat the bench (0: none), seconds without a pause."""

    batches: tuple[int, ...] = ()
    repeat: int = 0
    sustain: float = 0.0


def with_best_threads(
    artifact: Artifact, device: Device, inputs: Path | None, tell: Tell
) -> tuple[Device, tuple[Tried, ...]]:
    """The device with the count of threads that the artifact is fastest with, and all that was tried."""
    tell(f"trying threads with {artifact.name}")
    with benching([artifact], device, inputs) as bench:
        tried = try_threads(bench, artifact)
    return replace(device, threads=best(tried).threads), tried


def beyond(
    rows: Sequence[Row],
    artifacts: Sequence[Artifact],
    device: Device,
    wishes: Wishes,
    inputs: Path | None = None,
    tell: Tell = lambda text: None,
) -> tuple[Row, ...]:
    """The rows with what was wished for: repetitions of all, batches and the sustained run of the last.

    Raises DeviceError where the device has no address, or fails.
    """
    found = list(rows)
    if wishes.repeat:
        tell(f"timing each in {wishes.repeat} processes")
        with benching(artifacts, device, inputs) as bench:
            repeated = repeat(bench, artifacts, wishes.repeat)
        for index, timings in enumerate(repeated):
            row = found[index]
            medians = tuple(timing.p50 for timing in timings)
            found[index] = replace(row, repeats=medians, doubts=(*row.doubts, *doubts(timings)))
    if wishes.batches:
        tell(f"trying batches of {artifacts[-1].name}")
        with benching(artifacts[-1:], device, inputs) as bench:
            tried = try_batches(bench, artifacts[-1], wishes.batches)
        found[-1] = replace(found[-1], tried=(*found[-1].tried, *tried))
    if wishes.sustain:
        tell(f"running {artifacts[-1].name} for {wishes.sustain:.0f} s without a pause")
        found[-1] = sustained(found[-1], artifacts[-1], device, wishes.sustain, inputs)
    return tuple(found)
