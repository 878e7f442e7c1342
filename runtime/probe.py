"""Probe: how fast a machine is at the operators that models are made of, and at reading its memory.

    python -m edgepress.runtime.probe FOLDER --threads 1 --seconds 30

runs the kernels that lie in FOLDER (see export/kernels.py) and prints a Probe as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import ort
from .errors import ArtifactError, DataError, EngineError, UsageError
from .machine import Machine, this_machine
from .program import answer

KERNELS = "kernels.json"
SECONDS = 30.0
_PASSES = 3  # over all kernels; the best counts, for other programs make slower only
_ARRAYS = tuple(2**power for power in (20, 22, 24, 26, 27))  # bytes that are read again and again: caches, then memory


@dataclass(frozen=True)
class Kernel:
    """One file: what it measures, the grid's place of it, the work of one of its `repeats` nodes.

    `reuse` is how often each of `weights` is used; `work` are multiply-accumulates, or elements where there are none.
    """

    file: str
    kind: str
    precision: str
    reuse: int
    weights: int
    work: int
    repeats: int


@dataclass(frozen=True)
class Point:
    """What one node of a kernel took, in ms, the call's own cost taken off."""

    kind: str
    precision: str
    reuse: int
    weights: int
    work: int
    ms: float


@dataclass(frozen=True)
class Probe:
    """What a machine can do with so many threads: `call_ms` a call costs by itself, `overhead_ms` each node.

    `bandwidth` is bytes per second of a plain read by one thread, by the bytes of the array that is read over and over:
    small ones lie in a cache. `missing` are kernels that did not run, with the reason.
    """

    machine: Machine
    threads: int | None
    points: tuple[Point, ...]
    call_ms: float
    overhead_ms: float
    bandwidth: Mapping[int, float]
    missing: Mapping[str, str]


def probe(folder: Path, *, threads: int | None = None, seconds: float = SECONDS) -> Probe:
    """Run the kernels of a folder for about so many seconds; a kernel that the engine refuses is missing, and named.

    Raises ArtifactError where the folder holds no kernels, UsageError for no time, EngineError where nothing runs.

    >>> probe(Path("kernels"), threads=1).bandwidth[2**27]
    9.8e9
    """
    if not seconds > 0:
        raise UsageError(f"a probe of {seconds:g} s; expected more than 0")
    calls, missing = _open(_listed(folder), folder, threads)
    if not {"call", "overhead"} <= {kernel.kind for kernel, _ in calls}:
        raise EngineError(f"the kernels of {folder} do not run here: {next(iter(missing.values()), 'none is there')}")
    best = [float("inf")] * len(calls)
    for _ in range(_PASSES):
        for index, (_, call) in enumerate(calls):
            best[index] = min(best[index], _median(call, seconds / _PASSES / len(calls)))
    took = {kernel: ms for (kernel, _), ms in zip(calls, best, strict=True)}
    (one,) = (ms for kernel, ms in took.items() if kernel.kind == "call")
    (many,) = ((kernel, ms) for kernel, ms in took.items() if kernel.kind == "overhead")
    overhead = max(many[1] - one, 0.0) / (many[0].repeats - 1)
    call_ms = max(one - overhead, 0.0)
    points = tuple(
        Point(k.kind, k.precision, k.reuse, k.weights, k.work, max(ms - call_ms, 0.0) / k.repeats)
        for k, ms in took.items()
        if k.kind not in ("call", "overhead")
    )
    return Probe(
        this_machine(), threads, points, call_ms, overhead, {size: _bandwidth(size) for size in _ARRAYS}, missing
    )


def to_json(found: Probe) -> str:
    """A probe as indented JSON."""
    return json.dumps(asdict(found), indent=1, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Probe:
    """Read what `to_json` wrote. Raises DataError where it is something else."""
    try:
        raw: dict[str, Any] = json.loads(text)
        points = tuple(Point(**point) for point in raw["points"])
        bandwidth = {int(size): float(speed) for size, speed in raw["bandwidth"].items()}
        return Probe(**raw | {"machine": Machine(**raw["machine"]), "points": points, "bandwidth": bandwidth})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"this is no probe ({error!r}); make one with: edgepress devices probe --out FILE") from error


def _listed(folder: Path) -> list[Kernel]:
    try:
        return [Kernel(**raw) for raw in json.loads((folder / KERNELS).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{folder / KERNELS} cannot be read ({error}); write the kernels again") from error


def _open(
    kernels: Sequence[Kernel], folder: Path, threads: int | None
) -> tuple[list[tuple[Kernel, Callable[[], object]]], dict[str, str]]:
    """The kernels that run, each with a call; the others with the engine's reason."""
    calls: list[tuple[Kernel, Callable[[], object]]] = []
    missing: dict[str, str] = {}
    for kernel in kernels:
        try:
            engine = ort.start(folder / kernel.file, threads=threads)
            (port,) = engine.inputs
            x = np.ones([axis if isinstance(axis, int) else 1 for axis in port.shape], port.dtype)
            call = _caller(engine.run, {port.name: x})
            call()
        except EngineError as error:
            missing[kernel.file] = str(error)
        else:
            calls.append((kernel, call))
    return calls, missing


def _caller(
    run: Callable[[Mapping[str, np.ndarray]], object], inputs: Mapping[str, np.ndarray]
) -> Callable[[], object]:
    return lambda: run(inputs)


def _median(call: Callable[[], object], seconds: float) -> float:
    """The median in ms of the calls in the second half of the time; the first half warms up."""
    clock = time.perf_counter
    start = clock()
    while clock() < start + seconds / 2:
        call()
    taken = []
    while not taken or clock() < start + seconds:
        begun = clock()
        call()
        taken.append(1000 * (clock() - begun))
    return median(taken)


def _bandwidth(size: int) -> float:
    """Bytes per second of a plain sum over an array of so many bytes: the best of some."""
    array = np.ones(size // 8, np.int64)
    times = []
    for _ in range(max(5, _ARRAYS[-1] // size)):
        start = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - start)
    return array.nbytes / min(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, probe, print. Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="edgepress.runtime.probe", description="Probe this machine; prints JSON.")
    parser.add_argument("folder", type=Path, help="the kernels' folder")
    parser.add_argument("--threads", type=int, default=None, help="the engine's threads (one per core)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long, about (30)")
    options = parser.parse_args(arguments)
    return answer(lambda: to_json(probe(options.folder, threads=options.threads, seconds=options.seconds)))


if __name__ == "__main__":
    sys.exit(main())
