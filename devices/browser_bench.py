"""Browser bench: time web builds in a headless Chromium, as `runtime.bench` times artifacts in a process.

    python -m edgepress.devices.browser_bench SITE [SITE ...] --runs 100 --provider wasm-threads --provider wasm

takes the same arguments and prints the same JSON. What its figures mean here: latencies are taken in the page's worker
around the engine's call; `load_ms` is the download from this machine, the hashes, the engine and the session;
`cold_start_ms` goes from the navigation of a fresh browser to the first output; `peak_memory` is that of the tab's
process; `providers` are the backend, and `system` names the browser.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..runtime.artifact import Artifact, read_artifact
from ..runtime.bench import (
    BLOCK_CALLS,
    BLOCK_MS,
    LIMIT_S,
    SETTLE_MS,
    Block,
    batch_of,
    in_turn,
    inputs_of,
    main,
    read_inputs,
    refuse_nothing,
    with_doubts,
)
from ..runtime.errors import UnsupportedError
from ..runtime.machine import Counters, Doubt, counters, disturbance, this_machine
from ..runtime.session import LoadedModel
from ..runtime.timing import Timing
from .browser import BACKENDS, Browser, BrowserEngine, open_browser

PAUSE_S = 0.1  # threads of WebAssembly spin after a call, and the next model shares the cores with them
_TICKS = os.sysconf("SC_CLK_TCK")


def bench(
    paths: Sequence[str | Path],
    *,
    runs: int = 100,
    threads: int | None = None,
    providers: Sequence[str] = BACKENDS,
    inputs: Path | None = None,
    batch: int | None = None,
    sustain: float | None = None,
    limit_s: float = LIMIT_S,
) -> tuple[Timing, ...]:
    """Time web builds in turn, all in one page: see `runtime.bench.bench`, whose rounds and stops these are.

    `providers` are the backends in the order in which they are tried; the golden samples decide, for each build.
    Raises UnsupportedError for `batch` and `sustain`, and what `open_browser` and `Browser.open` raise besides.

    >>> bench(["site"], threads=1)[0].providers
    ('wasm',)
    """
    if batch is not None or sustain is not None:
        raise UnsupportedError("a browser is timed without --batch and --sustain; leave them out")
    refuse_nothing(len(paths), runs, threads)
    given = None if inputs is None else read_inputs(inputs)
    sites = {str(index): read_artifact(path) for index, path in enumerate(paths)}
    with open_browser(sites) as browser:
        before = _counters()
        seen = [_open(browser, artifact, name, threads, providers, given) for name, artifact in sites.items()]
        rounds = in_turn([one.block for one in seen], runs, limit_s, partial(time.sleep, PAUSE_S))
        memory, disturbed, run = _tab_memory(), disturbance(before, _counters()), uuid.uuid4().hex
        machine = this_machine()
        machine = replace(machine, system=f"Chromium {browser.version} on {machine.system}")
    alone = len(seen) == 1
    timings = (
        Timing(
            name=one.model.artifact.name,
            run=run,
            load_ms=one.load_ms if alone else None,
            first_run_ms=one.first_run_ms if alone else None,
            cold_start_ms=one.cold_start_ms if alone else None,
            rounds=tuple(blocks),
            peak_memory=memory if alone else None,
            threads=one.engine.opened.threads,
            providers=one.engine.providers,
            shapes={name: array.shape for name, array in one.inputs.items()},
            batch=batch_of(one.model.inputs, {name: array.shape for name, array in one.inputs.items()}),
            machine=machine,
            disturbance=disturbed,
            doubts=one.doubts,
        )
        for one, blocks in zip(seen, rounds, strict=True)
    )
    return with_doubts(tuple(timings))


@dataclass(frozen=True)
class _Subject:
    """One web build under the clock."""

    model: LoadedModel
    engine: BrowserEngine
    inputs: Mapping[str, np.ndarray]
    first_run_ms: float
    doubts: tuple[Doubt, ...]

    @property
    def load_ms(self) -> float:
        return self.engine.opened.times["download"] + self.engine.opened.times["start"]

    @property
    def cold_start_ms(self) -> float:
        return self.engine.opened.ready + self.first_run_ms

    @property
    def block(self) -> Block:
        def take(least: int, limit_s: float) -> tuple[float, ...]:
            return self.engine.block(
                self.inputs, settle=SETTLE_MS, least=least, enough=BLOCK_MS, most=BLOCK_CALLS, limit=1000 * limit_s
            )

        return take


def _open(
    browser: Browser,
    artifact: Artifact,
    name: str,
    threads: int | None,
    backends: Sequence[str],
    given: Mapping[str, np.ndarray] | None,
) -> _Subject:
    model = browser.open(artifact, name, backends=backends, threads=threads)
    engine = model.engine
    assert isinstance(engine, BrowserEngine)
    inputs, doubts = inputs_of(model, given)
    begun = time.perf_counter()
    model(**inputs)  # refuses what does not fit
    took = 1000 * (time.perf_counter() - begun)
    first = engine.opened.times["firstRun"]
    return _Subject(model, engine, inputs, took if np.isnan(first) else first, (*doubts, *_doubts(engine)))


def _doubts(engine: BrowserEngine) -> Iterator[Doubt]:
    for refused in engine.opened.refused:
        if refused["why"] != "absent":  # it is in the browser, and did not do
            yield Doubt("refused", f"{refused['backend']} was passed over: {refused['message']}")
    if not engine.opened.isolated:
        yield Doubt("clock", "the page is not isolated, so its clock has steps of 0.1 ms; serve it with COOP and COEP")


def _counters() -> Counters:
    """The system's counters, with the browser's processor time as our own."""
    seen = counters()
    return replace(seen, own=seen.own + sum(_seconds(pid) for pid in descendants(os.getpid())))


def _tab_memory() -> int | None:
    """The largest resident size of the tab's process so far, in bytes; None where the system does not tell.

    A browser's own `measureUserAgentSpecificMemory` took a minute, its limit, where threads of WebAssembly wait; it
    tells what there is at the moment, and nothing of the engine's compiled code.
    """
    peaks = [_peak(pid) for pid in descendants(os.getpid()) if b"--type=renderer" in _read(f"/proc/{pid}/cmdline")]
    return max(peaks, default=0) or None  # the browser keeps a spare one, which is smaller


def descendants(pid: int) -> Iterator[int]:
    """The processes that this one has started, and those that they have; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(entry.name)):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    todo = [pid]
    while todo:
        found = children.get(todo.pop(), [])
        todo += found
        yield from found


def _seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _peak(pid: int) -> int:
    lines = _read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"VmHWM:")), 0)


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the name: state, parent, …"""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


if __name__ == "__main__":
    sys.exit(main(run=bench, usual=BACKENDS))
