"""Bench: run artifacts in turn and keep every sample. One program for the laptop and the device.

    python -m edgepress.runtime.bench DIR [DIR ...] --runs 100 --threads 1 --provider cpu

prints the timings as JSON. In each round every artifact runs one block of calls, so that a drift of the machine
(heat, frequency, other programs) meets all alike, and their ratios can be taken round by round.
"""

import argparse
import gc
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from . import sustain as lasting
from .arrays import read_arrays
from .artifact import GOLDEN, Port
from .errors import DataError, EngineError, UsageError
from .golden import first_inputs
from .invented import invent
from .machine import Doubt, counters, disturbance, peak_memory, process_age, this_machine, wait_for_idle
from .placement import Placed
from .program import answer
from .providers import short
from .session import LoadedModel, load
from .timing import LanguageTiming, Timing, to_json

ROUNDS = (10, 20)  # ratios are taken per round: fewer have no quartiles worth the name
STEADY = 0.04  # between the two, no further round where the median ratio is known to so much
BLOCK_MS = 20.0  # a block shorter than this is at the mercy of a single interrupt
BLOCK_CALLS = 100  # ... and more calls than this add bytes to the report, not knowledge
LIMIT_S = 60.0  # per artifact; a model of 5 s a call gets fewer runs, not ten minutes
MIN_ROUNDS = 3
LENGTHS, WRITTEN = (128, 512), 16  # tokens read, and then written, of a language model
_TICK_MS = 1e-6  # a clock tells no less
SETTLE_MS = 20.0  # the first calls of a block are not counted: the caches refill

# What takes a block of latencies in ms: of at least so many calls, in at most so many seconds.
Block = Callable[[int, float], tuple[float, ...]]


@dataclass(frozen=True)
class _Subject:
    """One artifact under the clock: a call without arguments, and what was seen while it was opened."""

    model: LoadedModel
    call: Callable[[], object]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int
    load_ms: float
    first_run_ms: float
    doubts: tuple[Doubt, ...]


def bench(
    paths: Sequence[str | Path],
    *,
    runs: int = 100,
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    inputs: Path | None = None,
    batch: int | None = None,
    sustain: float | None = None,
    limit_s: float = LIMIT_S,
) -> tuple[Timing, ...]:
    """Time artifacts in turn in this process: at least `runs` calls each, or what fits into `limit_s` seconds each.

    Each runs its first golden sample, or the arrays of the `.npz` file `inputs`, or (with a doubt) invented ones,
    repeated up to `batch` samples. After that the last artifact runs for `sustain` seconds without a pause.
    Raises UsageError for runs, threads or paths that cannot be right, DataError for the inputs, and what `load` raises.

    >>> bench(["out/digits", "out/digits-int8"], threads=1)[1].p50
    0.148
    """
    refuse_nothing(len(paths), runs, threads)
    given = None if inputs is None else read_inputs(inputs)
    before = counters()
    subjects, cold_start_ms = [], None
    for path in paths:
        subjects.append(_open(path, threads, providers, given, batch))
        cold_start_ms = cold_start_ms or _age_ms()
    alone = len(subjects) == 1
    with _quiet():
        rounds = in_turn([partial(block, subject.call) for subject in subjects], runs, limit_s)
    memory, seen, machine = peak_memory(), disturbance(before, counters()), this_machine()
    language = _language(subjects[0].model, limit_s) if alone else ()
    run = uuid.uuid4().hex
    timings = [
        Timing(
            name=subject.model.artifact.name,
            run=run,
            load_ms=subject.load_ms if alone else None,
            first_run_ms=subject.first_run_ms if alone else None,
            cold_start_ms=cold_start_ms if alone else None,
            rounds=tuple(blocks),
            peak_memory=memory if alone else None,
            threads=threads,
            providers=subject.model.engine.providers,
            shapes=subject.shapes,
            batch=subject.batch,
            machine=machine,
            disturbance=seen,
            doubts=subject.doubts,
            language=language,
            placed=_placed(subject.model),
        )
        for subject, blocks in zip(subjects, rounds, strict=True)
    ]
    if sustain is not None:
        timings[-1] = replace(timings[-1], sustained=lasting.sustain(subjects[-1].call, sustain))
    return with_doubts(tuple(timings))


def _placed(model: LoadedModel) -> tuple[Placed, ...]:
    """Who ran its nodes, asked for when the clock has stopped; nothing where the engine does not tell."""
    try:
        return model.placement.nodes
    except EngineError:
        return ()


def refuse_nothing(artifacts: int, runs: int, threads: int | None) -> None:
    """Raise UsageError where there is nothing to time, or nothing to time it with."""
    if runs < 1 or (threads is not None and threads < 1) or not artifacts:
        raise UsageError(f"{artifacts} artifacts, {runs} runs, {threads} threads; expected at least 1 of each")


def _language(model: LoadedModel, limit_s: float) -> tuple[LanguageTiming, ...]:
    """Reading and writing of a model that writes text, at the context lengths that it has room for."""
    if model.artifact.format != "gguf":
        return ()
    from .language import LanguageModel
    from .language_bench import bench_language

    if not isinstance(model, LanguageModel) or model.engine.embeds:
        return ()
    lengths = [length for length in LENGTHS if length + WRITTEN <= model.context]
    if not lengths:
        return ()
    return bench_language(model, lengths=lengths, tokens=WRITTEN, rounds=MIN_ROUNDS, limit_s=limit_s)


def in_turn(
    takers: Sequence[Block], runs: int, limit_s: float, idle: Callable[[], None] = wait_for_idle
) -> list[list[tuple[float, ...]]]:
    """Blocks of latencies in ms, of each artifact one a round, until each has its runs or the time is up.

    A taker gives a block: of so many calls at least, in so many seconds at most. All runs are had after the first
    ROUNDS[0]; where other programs make the ratios vary, up to ROUNDS[1] follow. `idle` waits until the last one rests.
    """
    first, most = (min(count, runs) for count in ROUNDS)
    blocks: list[list[tuple[float, ...]]] = [[] for _ in takers]
    end = time.perf_counter() + limit_s * len(takers)
    for done in range(most):
        if (done >= MIN_ROUNDS and time.perf_counter() > end) or (done >= first and _is_steady(blocks)):
            break
        least = math.ceil(runs / first) if done < first else 1
        for take, kept in zip(takers, blocks, strict=True):
            if len(takers) > 1:
                idle()
            kept.append(take(least, limit_s / most))
    return blocks


def _is_steady(blocks: Sequence[Sequence[tuple[float, ...]]]) -> bool:
    """True where the ratios of each to the last are known to STEADY: the quartiles' distance over √rounds."""
    medians = np.array([[np.median(block) for block in rounds] for rounds in blocks])
    logs = np.log(np.maximum(medians[:-1], _TICK_MS) / np.maximum(medians[-1], _TICK_MS))
    low, high = np.percentile(logs, (25, 75), axis=1)
    return bool(((high - low) / math.sqrt(medians.shape[1]) <= STEADY).all())


def block(call: Callable[[], object], least: int, limit_s: float) -> tuple[float, ...]:
    """Latencies in ms of `least` calls or more, until BLOCK_MS or BLOCK_CALLS; fewer where `limit_s` is over."""
    clock = time.perf_counter_ns
    settled = clock() + int(SETTLE_MS * 1e6)
    call()
    while clock() < settled:
        call()
    taken: list[float] = []
    start = clock()
    enough, too_long = start + int(BLOCK_MS * 1e6), start + int(limit_s * 1e9)
    while True:
        begun = clock()
        call()
        ended = clock()
        taken.append((ended - begun) / 1e6)
        if ended > too_long or (len(taken) >= least and (ended > enough or len(taken) >= BLOCK_CALLS)):
            return tuple(taken)


def _open(
    path: str | Path,
    threads: int | None,
    providers: Sequence[str],
    given: Mapping[str, np.ndarray] | None,
    batch: int | None,
) -> _Subject:
    start = time.perf_counter()
    model = load(path, threads=threads, providers=providers)
    loaded = time.perf_counter()
    inputs, doubts = inputs_of(model, given)
    if batch is not None:
        inputs = _repeated(model.inputs, inputs, batch)
    prepared = time.perf_counter()
    try:
        model(**inputs)
    except EngineError as error:
        if not doubts:
            raise
        raise EngineError(f"{error} (with {doubts[0].text})") from error
    first = time.perf_counter()
    shapes = {name: array.shape for name, array in inputs.items()}
    return _Subject(
        model=model,
        call=lambda: model(**inputs),
        shapes=shapes,
        batch=batch_of(model.inputs, shapes),
        load_ms=1000 * (loaded - start),
        first_run_ms=1000 * (first - prepared),
        doubts=(*doubts, *_left(model, providers)),
    )


def _left(model: LoadedModel, asked: Sequence[str]) -> tuple[Doubt, ...]:
    """The providers that `load` stepped down from; what it has to say of each went to stderr, as a warning."""
    left = [name for name in map(short, asked) if name not in model.asked]
    if not left:
        return ()
    return (Doubt("fallback", f"{', '.join(left)} did not run it; the model ran on {', '.join(model.asked)}"),)


def inputs_of(
    model: LoadedModel, given: Mapping[str, np.ndarray] | None
) -> tuple[Mapping[str, np.ndarray], tuple[Doubt, ...]]:
    """What a timed call is given: `given`, the first golden sample, or (with a doubt) invented arrays."""
    if given is not None:
        return given, ()
    golden = model.artifact.asset(GOLDEN)
    if golden is not None:
        return first_inputs(golden), ()
    inputs = {port.name: invent(port) for port in model.inputs}
    seen = ", ".join(f"{name}{list(array.shape)}" for name, array in inputs.items())
    return inputs, (Doubt("invented-inputs", f"invented inputs ({seen}); name real ones with --inputs FILE.npz"),)


def read_inputs(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of an `.npz` file by name. Raises DataError where it holds something else."""
    arrays = read_arrays(path)
    if "" in arrays:
        raise DataError(f"{path} holds a single array; expected an .npz with one array per input")
    return arrays


def batch_of(ports: Sequence[Port], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many samples a call holds: the size of a free first axis, else 1."""
    free = (shapes[p.name][0] for p in ports if p.shape and isinstance(p.shape[0], str) and p.name in shapes)
    return next(free, 1)


def _repeated(ports: Sequence[Port], inputs: Mapping[str, np.ndarray], batch: int) -> Mapping[str, np.ndarray]:
    """The inputs with their samples over and over, until there are `batch`. Raises UsageError where that cannot be."""
    free = {port.name for port in ports if port.shape and isinstance(port.shape[0], str)}
    if not free or batch < 1:
        seen = ", ".join(map(str, ports))
        raise UsageError(f"a batch of {batch}; expected 1 or more, and an input with a free first axis, not {seen}")
    return {n: np.resize(a, (batch, *a.shape[1:])) if n in free else a for n, a in inputs.items()}


def with_doubts(timings: tuple[Timing, ...]) -> tuple[Timing, ...]:
    """Timings of one run with all that speaks against them."""
    shapes = {str(sorted(timing.shapes.values())) for timing in timings}
    seen = ", ".join(sorted(shapes))
    differ = (Doubt("shapes", f"inputs of different shapes ({seen}): do not compare the latencies"),)
    shared = differ if len(shapes) > 1 else ()
    return tuple(replace(t, doubts=(*t.doubts, *shared, *_doubts(t))) for t in timings)


def _doubts(timing: Timing) -> Iterator[Doubt]:
    runs, p50, machine, seen = len(timing.samples), timing.p50, timing.machine, timing.disturbance
    if runs < 100 and not timing.averaged:
        yield Doubt("few-runs", f"p99 from {runs} runs; needs at least 100")
    if timing.p90 > 1.1 * p50:
        yield Doubt("noisy", f"runs vary by {timing.p90 / p50 - 1:.0%} (p90 over p50); close other programs")
    if seen.others is not None and seen.seconds > 0.2 and seen.others > 0.25:
        yield Doubt("other-load", f"other programs kept {seen.others:.1f} of {machine.cores} cores busy; close them")
    if seen.steal is not None and seen.steal > 0.01:
        yield Doubt("steal", f"the hypervisor gave {seen.steal:.0%} of the processor time to others")
    if machine.governor not in (None, "performance"):
        yield Doubt("governor", f"the frequency governor is {machine.governor}; set it to performance")
    if timing.threads is not None and timing.threads > machine.cores:
        yield Doubt("threads", f"{timing.threads} threads on {machine.cores} cores; use at most {machine.cores}")
    if timing.sustained is not None:
        yield from lasting.doubts(timing.sustained)


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _age_ms() -> float | None:
    age = process_age()
    return None if age is None else 1000 * age


def parser() -> argparse.ArgumentParser:
    """The arguments of a bench, on whatever device."""
    found = argparse.ArgumentParser(prog="edgepress.runtime.bench", description="Time artifacts; prints JSON.")
    found.add_argument("paths", nargs="+", metavar="DIR", help="an artifact's folder, or a bare model file")
    found.add_argument("--runs", type=int, default=100, help="calls to count, at least (100)")
    found.add_argument("--threads", type=int, default=None, help="the engine's threads (one per core)")
    found.add_argument("--provider", action="append", metavar="NAME", help="execution provider, in order (cpu)")
    found.add_argument("--inputs", type=Path, metavar="FILE.npz", help="inputs by name (the first golden sample)")
    found.add_argument("--batch", type=int, metavar="N", help="samples in a call (as many as the inputs hold)")
    found.add_argument("--sustain", type=float, metavar="SECONDS", help="then run the last one without a pause")
    found.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="the most for each (60)")
    return found


def main(
    arguments: Sequence[str] | None = None,
    run: Callable[..., tuple[Timing, ...]] = bench,
    usual: Sequence[str] = ("cpu",),
) -> int:
    """Parse, bench, print. Returns the exit code: 0, or 2 with one line on stderr.

    `run` takes what `bench` takes: another kind of device has its own, with its `usual` providers.
    """
    options = parser().parse_args(arguments)
    return answer(
        lambda: to_json(
            run(
                options.paths,
                runs=options.runs,
                threads=options.threads,
                providers=options.provider or usual,
                inputs=options.inputs,
                batch=options.batch,
                sustain=options.sustain,
                limit_s=options.limit,
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main())
