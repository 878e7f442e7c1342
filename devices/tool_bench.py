"""Tool bench: time artifacts by their engines' own command line tools, as `runtime.bench` does where Python is.

A tool runs one file in a process of its own, so that every round is one call of it. A first call of a single run tells
how long a run takes, from which the others' runs are counted; alone, an artifact has its load time, its first run and
its peak memory from there, for watching the memory takes time.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from ..runtime.artifact import Artifact, known_format, read_artifact
from ..runtime.bench import BLOCK_CALLS, BLOCK_MS, LIMIT_S, batch_of, in_turn, parser, refuse_nothing, with_doubts
from ..runtime.errors import DeviceError, UnsupportedError
from ..runtime.machine import Disturbance, Doubt, Machine
from ..runtime.timing import AVERAGES, Timing, to_json

RESULTS = "results"  # the file that a tool may write, in the folder it runs in: it is printed after what the tool said
_TICK_MS = 1e-3  # the tools tell no less


@dataclass(frozen=True)
class Call:
    """What one call is asked for: `runs` of the file at the path `model` there, in `limit_s` seconds at most.

    `threads` is None where the number is left to the engine. `watched` asks for the peak memory.
    """

    artifact: Artifact
    model: str
    runs: int
    limit_s: float
    threads: int | None
    watched: bool = False


@dataclass(frozen=True)
class Told:
    """What one call tells, in ms and bytes; None where it does not tell.

    `samples` are the runs, in order; or, where `averaged` is set, the average of so many of them.
    """

    load_ms: float | None
    first_ms: float | None
    samples: tuple[float, ...]
    peak_memory: int | None
    averaged: int | None = None


@dataclass(frozen=True)
class Tool:
    """An engine's tool: what its file's name holds, whose it is, and how it is spoken to.

    `beside` are the libraries that it may need from its own folder. It runs `warm_ms` that are not counted, where it
    does not warm up by itself for so long. `arguments` are those of a call, `read` takes apart what it printed (raising
    DeviceError), `complaint` finds the line that says why it failed, `shapes` tells the inputs that it invents, whose
    kind is `invents`.
    """

    name: str
    engine: str
    invents: str
    arguments: Callable[[Call], list[str]]
    read: Callable[[str], Told]
    complaint: Callable[[str], str]
    shapes: Callable[[Artifact], dict[str, tuple[int, ...]]]
    warm_ms: float = 0.0
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.engine}'s {self.name}"


class Place(Protocol):
    """Where the tools run: what was sent there, by its path there, and the tools that it has, by their formats."""

    @property
    def sent(self) -> dict[str, Path]:
        """Path there -> path here."""
        ...

    @property
    def machine(self) -> Machine:
        """The machine there."""
        ...

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Format -> the tool that runs it there."""
        ...

    def call(self, form: str, arguments: Sequence[str], seconds: float) -> str:
        """Run a format's tool; returns what it said."""
        ...


def main(arguments: Sequence[str], place: Place, timeout: float) -> str:
    """Take the arguments of `runtime.bench`; returns the timings as JSON.

    `timeout` is in seconds, for all calls of the tools. Raises UnsupportedError for what the tools cannot do,
    DeviceError where one fails.
    """
    options = parser().parse_args(arguments)
    refuse_nothing(len(options.paths), options.runs, options.threads)
    if options.inputs is not None:
        raise UnsupportedError("a benchmark for Android invents its inputs; leave --inputs out for an Android device")
    if options.batch is not None or options.sustain is not None:
        raise UnsupportedError("an Android device is timed without --batch and --sustain; leave them out")
    if unknown := [name for name in options.provider or () if name != "cpu"]:
        raise UnsupportedError(f"an Android device is measured on its cpu, not on {unknown[0]}; leave it out")
    return to_json(bench(options.paths, place, options.runs, options.threads, timeout))


def bench(paths: Sequence[str], place: Place, runs: int, threads: int | None, timeout: float) -> tuple[Timing, ...]:
    """Time artifacts in turn, `runs` runs each at least, shared out over the rounds of `runtime.bench.in_turn`."""
    begun, end = time.monotonic(), time.monotonic() + timeout
    subjects = [_Subject(read_artifact(place.sent[path]), path, place, threads, end) for path in paths]
    firsts = [one.call(1, LIMIT_S, watched=True) for one in subjects]
    alone = firsts[0] if len(firsts) == 1 else None
    takers = [partial(one.take, first.samples[-1]) for one, first in zip(subjects, firsts, strict=True)]
    rounds = in_turn(takers, runs, LIMIT_S, idle=lambda: None)
    machine, run = place.machine, uuid.uuid4().hex
    seen = Disturbance(time.monotonic() - begun, None, None, 0)
    timings = (
        Timing(
            name=one.artifact.name,
            run=run,
            load_ms=None if alone is None else alone.load_ms,
            first_run_ms=None if alone is None else alone.first_ms,
            cold_start_ms=None,
            rounds=tuple(blocks),
            peak_memory=None if alone is None else alone.peak_memory,
            threads=threads,
            providers=("cpu",),
            shapes=one.shapes,
            batch=batch_of(one.artifact.inputs, one.shapes),
            machine=machine,
            disturbance=seen,
            doubts=tuple(one.doubts()),
        )
        for one, blocks in zip(subjects, rounds, strict=True)
    )
    return with_doubts(tuple(timings))


def lines_of(said: str) -> list[str]:
    """The lines that hold something, without the blanks around them."""
    return [line.strip() for line in said.splitlines() if line.strip()]


def not_understood(said: str, expected: str) -> DeviceError:
    """The error for an answer that is none: how it ends, and what was `expected`, with the remedy."""
    seen = next(reversed(lines_of(said)), "nothing")[:80]
    return DeviceError(f"the benchmark's answer is not understood (it ends with {seen!r}); expected {expected}")


@dataclass(frozen=True)
class _Subject:
    """One artifact under its tool, and of how many runs each average is, where there are such."""

    artifact: Artifact
    path: str
    place: Place
    threads: int | None
    end: float
    averaged: list[int] = field(default_factory=list)

    def take(self, run_ms: float, least: int, limit_s: float) -> tuple[float, ...]:
        """A block of latencies in ms, as `runtime.bench.block` takes it, where a run takes about `run_ms`."""
        run_ms = max(run_ms, _TICK_MS)
        enough = max(least, min(BLOCK_CALLS, math.ceil(BLOCK_MS / run_ms)))
        runs = min(enough, max(1, int(1000 * limit_s / run_ms)))
        told = self.call(int(self.tool.warm_ms / run_ms) + runs, limit_s)
        self.averaged.extend([] if told.averaged is None else [told.averaged])
        return told.samples[-runs:]

    def call(self, runs: int, limit_s: float, watched: bool = False) -> Told:
        """Run the tool once."""
        below = "" if self.artifact.bare else f"/{self.artifact.model.relative_to(self.artifact.path).as_posix()}"
        asked = Call(self.artifact, f"{self.path}{below}", runs, limit_s, self.threads, watched)
        left = max(self.end - time.monotonic(), 1.0)
        return self.tool.read(self.place.call(self.artifact.format, self.tool.arguments(asked), left))

    @property
    def tool(self) -> Tool:
        return known_format(self.artifact.format, self.place.tools)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.tool.shapes(self.artifact)

    def doubts(self) -> Iterator[Doubt]:
        """What speaks against the figures."""
        if self.averaged:
            least, most = min(self.averaged), max(self.averaged)
            runs = f"{least}" if least == most else f"{least} to {most}"
            yield Doubt(AVERAGES, f"averages of {runs} runs each, as {self.tool.name} tells them; no percentiles")
        seen = ", ".join(f"{name}{list(shape)}" for name, shape in self.shapes.items())
        yield Doubt("invented-inputs", f"{self.tool.name} invents {self.tool.invents} ({seen})")
