"""LiteRT bench: time TFLite files by LiteRT's own `benchmark_model` on a device, as `runtime.bench` times artifacts.

The tool tells the average of its runs and not each run, so that every round is one call of it, and its latency one
average: a doubt says so, and no percentile is made of them. `load_ms` is what it calls Init (the file, the interpreter,
the delegates), `first_run_ms` its first inference; when its process started is not told. `peak_memory` is its own,
from a call that is not counted, for watching it takes time.

Source: tensorflow/lite/tools/benchmark/benchmark_model.cc (OnBenchmarkEnd, Run), whose lines are

    INFO: count=50 first=42468 curr=41938 min=41938 max=42840 avg=42394.8 std=188 p5=42133 median=42419 p95=42671
    INFO: Inference timings in us: Init: 207799, First inference: 90710, Warmup (avg): 48230.2, Inference (avg): 42394.8
    INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2383
"""

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..runtime.artifact import Artifact, read_artifact
from ..runtime.bench import LIMIT_S, in_turn, parser, refuse_nothing, with_doubts
from ..runtime.errors import DeviceError, UnsupportedError
from ..runtime.machine import Disturbance, Doubt, Machine
from ..runtime.tflite_notes import first_shapes
from ..runtime.timing import AVERAGES, Timing, to_json

_N = r"([\d.]+(?:e[+-]?\d+)?)"  # a C++ stream turns to 1.23457e+06 from seven digits on
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_N}, First inference: {_N}, Warmup \(avg\): {_N}, Inference \(avg\): {_N}"
)
_COUNT = re.compile(r"\bcount=(\d+)")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_N}")


class Place(Protocol):
    """Where the tool runs: what was sent there, by its path there, and the tool itself."""

    @property
    def sent(self) -> dict[str, Path]:
        """Path there -> path here."""
        ...

    @property
    def machine(self) -> Machine:
        """The machine there."""
        ...

    def tool(self, arguments: Sequence[str], seconds: float) -> str:
        """Run the tool; returns what it said."""
        ...


@dataclass(frozen=True)
class Told:
    """What one call of the tool tells: averages in ms over `count` runs, bytes; None where it does not tell."""

    init_ms: float
    first_ms: float
    average_ms: float
    count: int
    peak_memory: int | None


def main(arguments: Sequence[str], place: Place, timeout: float) -> str:
    """Take the arguments of `runtime.bench`; returns the timings as JSON.

    `timeout` is in seconds, for all calls of the tool. Raises UnsupportedError for what the tool cannot do, DeviceError
    where it fails.
    """
    options = parser().parse_args(arguments)
    refuse_nothing(len(options.paths), options.runs, options.threads)
    if options.inputs is not None:
        raise UnsupportedError("benchmark_model invents its inputs; leave --inputs out for an Android device")
    if options.batch is not None or options.sustain is not None:
        raise UnsupportedError("an Android device is timed without --batch and --sustain; leave them out")
    if unknown := [name for name in options.provider or () if name != "cpu"]:
        raise UnsupportedError(f"an Android device is measured on its cpu, not on {unknown[0]}; leave it out")
    return to_json(bench(options.paths, place, options.runs, options.threads, timeout))


def bench(paths: Sequence[str], place: Place, runs: int, threads: int | None, timeout: float) -> tuple[Timing, ...]:
    """Time artifacts in turn, `runs` runs each at least, shared out over the rounds of `runtime.bench.in_turn`."""
    begun, end = time.monotonic(), time.monotonic() + timeout
    subjects = [_Subject(read_artifact(place.sent[path]), path, place, threads, end) for path in paths]
    alone = subjects[0].call(1, LIMIT_S, watched=True) if len(subjects) == 1 else None
    rounds = in_turn([one.take for one in subjects], runs, LIMIT_S, idle=lambda: None)
    machine, run = place.machine, uuid.uuid4().hex
    seen = Disturbance(time.monotonic() - begun, None, None, 0)
    timings = (
        Timing(
            name=one.artifact.name,
            run=run,
            load_ms=None if alone is None else alone.init_ms,
            first_run_ms=None if alone is None else alone.first_ms,
            cold_start_ms=None,
            rounds=tuple(blocks),
            peak_memory=None if alone is None else alone.peak_memory,
            threads=threads,
            providers=("cpu",),
            shapes=one.shapes,
            batch=1,
            machine=machine,
            disturbance=seen,
            doubts=one.doubts,
        )
        for one, blocks in zip(subjects, rounds, strict=True)
    )
    return with_doubts(tuple(timings))


def read_told(said: str) -> Told:
    """What the tool printed, taken apart. Raises DeviceError where that is something else.

    >>> read_told(text).average_ms
    42.3948
    """
    found, counts, peak = _TIMINGS.search(said), _COUNT.findall(said), _PEAK.search(said)
    if found is None or not counts:
        lines = [line for line in said.splitlines() if line.strip()]
        seen = lines[-1].strip()[:80] if lines else "nothing"
        raise DeviceError(
            f"the benchmark's answer is not understood (it ends with {seen!r}); expected the line 'Inference timings "
            "in us: …' of LiteRT's benchmark_model; name that one"
        )
    init, first, _, average = (float(number) / 1000 for number in found.groups())
    return Told(init, first, average, int(counts[-1]), None if peak is None else int(float(peak[1]) * 2**20))


def complaint(said: str) -> str:
    """The first error that the tool tells, for the last one is `Benchmarking failed`; else its last line, or ""."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return next(iter(errors), lines[-1] if lines else "")


@dataclass(frozen=True)
class _Subject:
    """One artifact: its file on the device, and how many runs each average is of."""

    artifact: Artifact
    path: str
    place: Place
    threads: int | None
    end: float
    counts: list[int] = field(default_factory=list)

    @property
    def take(self) -> Callable[[int, float], tuple[float, ...]]:
        def one(least: int, limit_s: float) -> tuple[float, ...]:
            told = self.call(least, limit_s)
            self.counts.append(told.count)
            return (told.average_ms,)

        return one

    def call(self, least: int, limit_s: float, watched: bool = False) -> Told:
        """Run the tool once: `least` runs, or as many as fit into `limit_s` seconds."""
        below = "" if self.artifact.bare else f"/{self.artifact.model.relative_to(self.artifact.path).as_posix()}"
        settings = [f"--graph={self.path}{below}", f"--num_runs={least}", f"--max_secs={limit_s:g}"]
        settings += [] if self.threads is None else [f"--num_threads={self.threads}"]
        settings += ["--report_peak_memory_footprint=true"] if watched else []
        return read_told(self.place.tool(settings, max(self.end - time.monotonic(), 1.0)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the file's first graph, which is the one that the tool runs."""
        return first_shapes(self.artifact.model)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        least, most = min(self.counts), max(self.counts)
        seen = ", ".join(f"{name}{list(shape)}" for name, shape in self.shapes.items())
        runs = f"{least}" if least == most else f"{least} to {most}"
        return (
            Doubt(AVERAGES, f"averages of {runs} runs each, as benchmark_model tells them; no percentiles"),
            Doubt("invented-inputs", f"benchmark_model invents the inputs of the first graph ({seen})"),
        )
