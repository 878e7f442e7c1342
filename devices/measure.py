"""Measure: artifacts x device -> rows. What ships is judged: the file itself, by the runtime, in fresh processes."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..runtime.artifact import GOLDEN, Artifact, Step, describe
from ..runtime.errors import DeviceError, UnsupportedError, UsageError
from ..runtime.golden import SelfTest
from ..runtime.machine import Doubt
from ..runtime.program import answered
from ..runtime.selftest import from_json as read_selftests
from ..runtime.session import LoadedModel, load
from ..runtime.timing import LanguageTiming, Timing, from_json
from .device import Device
from .links import Link, connect
from .sweep import Tried
from .units import Shares, shares_of

Score = Callable[[LoadedModel], Mapping[str, float]]
Progress = Callable[[str], None]
_Seen = tuple[Timing | None, "Alone | None", SelfTest | None]

_HERE = ("local", "browser")  # what these run is judged as it runs there
TIMEOUT_S = 600.0  # per artifact: a bench ends by itself long before, unless the device hangs


@dataclass(frozen=True)
class Alone:
    """Figures that need a process of their own: milliseconds, and bytes of peak memory; None where not told.

    `language` is how fast a language model reads and writes.
    """

    load_ms: float | None
    first_run_ms: float | None
    cold_start_ms: float | None
    peak_memory: int | None
    language: tuple[LanguageTiming, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """How many times one latency is another, round by round: the median and the quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One artifact on one device. `bytes` is the model's size on disk, `sha256` that of the model file.

    `timing` and `alone` are None where the device could not be reached, `score` and `selftest` where there was nothing
    to judge by. `kept` and `why` are the verdict on the step that made it. `compressed` is the size as a download,
    deflated, as web servers and packages do it; None in reports of older versions. `history` and `tools` are the
    artifact's: what was done to the model, and the versions that wrote the file. `tried` are other threads and batches,
    `repeats` the medians in ms of further processes, where they were asked for. `placement` is the share of its
    multiply-accumulates on each unit, the largest first, as the engine placed them when it was timed; None where nobody
    tells. They add up to less than 1 where the engine runs some under names that cannot be followed.
    """

    name: str
    path: Path
    format: str
    bytes: int
    sha256: str
    device: str
    timing: Timing | None = None
    alone: Alone | None = None
    score: Mapping[str, float] | None = None
    selftest: SelfTest | None = None
    doubts: tuple[Doubt, ...] = ()
    kept: bool = True
    why: str = ""
    compressed: int | None = None
    history: tuple[Step, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    tried: tuple[Tried, ...] = ()
    repeats: tuple[float, ...] = ()
    placement: Mapping[str, float] | None = None


def measure(
    artifacts: Sequence[Artifact],
    device: Device,
    *,
    score: Score | None = None,
    runs: int = 100,
    inputs: Path | None = None,
    known: Sequence[Row] = (),
    shares: Shares | None = None,
    on_progress: Progress | None = None,
) -> tuple[Row, ...]:
    """Judge and time artifacts: each alone in a fresh process, then all in turn in one, so that `speed` may compare.

    Golden samples are replayed where the files run; `score` judges the open model, here. `inputs` is an `.npz` with the
    inputs of a call, otherwise the first golden sample is run. `known` are rows of an earlier call: an artifact's
    figures alone, its score and its self-test are taken from there, for only the latencies in turn have to be of one
    run. `shares` counts the work of a file that runs on several units. `on_progress` is told what happens next.
    A device without an address is not timed, nor is an emulated one: the rows say so, and never hold another machine's
    figures. Raises UnsupportedError for a format that the device does not run, DeviceError where the device fails.

    >>> base, small = measure([artifact, smaller], find_device("host"))
    >>> speed(small.timing, base.timing).median
    1.83
    """
    refuse_other_formats([artifact.format for artifact in artifacts], device)
    tell = on_progress or (lambda text: None)
    earlier = {row.path: row for row in known}
    judged = [_judged(artifact, device, score, earlier.get(artifact.path), tell) for artifact in artifacts]
    seen = _seen(artifacts, device, runs, inputs, earlier, tell)
    return tuple(
        _row(artifact, device, timing, figures, verdict, replayed or selftest, earlier.get(artifact.path), shares)
        for artifact, (timing, figures, replayed), (verdict, selftest) in zip(artifacts, seen, judged, strict=True)
    )


def refuse_other_formats(formats: Sequence[str], device: Device) -> None:
    """Raise UnsupportedError where the device does not run one of the formats."""
    for form in formats:
        if form not in device.formats:
            runs_here = ", ".join(device.formats)
            raise UnsupportedError(f"{device.name} does not run the format {form!r}; it runs: {runs_here}")


def speed(a: Timing, b: Timing) -> Ratio:
    """How many times as fast `a` is as `b`: the ratio p50_b / p50_a of each round, its median and quartiles.

    Raises UsageError where the two are from different runs or ran inputs of different shapes.
    """
    if a.run != b.run:
        raise UsageError(f"{a.name} and {b.name} were timed in different runs, which are never merged; measure both")
    if sorted(a.shapes.values()) != sorted(b.shapes.values()):
        seen = f"{dict(a.shapes)} and {dict(b.shapes)}"
        raise UsageError(f"{a.name} and {b.name} ran inputs of different shapes, {seen}; name the same for both")
    ratios = [np.median(y) / np.median(x) for x, y in zip(a.rounds, b.rounds, strict=True)]
    low, median, high = (float(q) for q in np.percentile(ratios, (25, 50, 75)))
    return Ratio(median, low, high)


def deflated(artifact: Artifact) -> int:
    """Bytes of the model's files as a download, each deflated by zlib at level 6; read piece by piece."""
    total = 0
    for file in (file for file in artifact.files if file.role == "model"):
        squeeze = zlib.compressobj(6)
        with (artifact.path if artifact.bare else artifact.path / file.name).open("rb") as stream:
            total += sum(len(squeeze.compress(piece)) for piece in iter(lambda: stream.read(2**20), b""))
        total += len(squeeze.flush())
    return total


def _judged(
    artifact: Artifact, device: Device, score: Score | None, earlier: Row | None, tell: Progress
) -> tuple[Mapping[str, float] | None, SelfTest | None]:
    """Score of an artifact, and its self-test where it is not replayed by the device itself.

    In the browser where that is the device, else by this machine's engine.
    """
    if earlier is not None:
        return earlier.score, earlier.selftest
    golden = device.link in ("", *_HERE) and artifact.asset(GOLDEN) is not None
    if score is None and not golden:
        return None, None
    tell(f"judging {artifact.name}")
    with _opened(artifact, device) as model:
        figures = None if score is None else {name: float(value) for name, value in score(model).items()}
        return figures, model.selftest() if golden else None


@contextmanager
def _opened(artifact: Artifact, device: Device) -> Iterator[LoadedModel]:
    """The artifact, open to be judged from here."""
    if device.link == "browser":
        from .browser import open_in_browser

        with open_in_browser(artifact, backends=device.units, threads=device.threads) as model:
            yield model
        return
    # samples mostly come one by one: more threads took twice the time, and sums in another order on each machine
    yield load(artifact.path, threads=1)


def _seen(
    artifacts: Sequence[Artifact],
    device: Device,
    runs: int,
    inputs: Path | None,
    earlier: Mapping[Path, Row],
    tell: Progress,
) -> Sequence[_Seen]:
    """What the device tells of each: its latencies in turn, its figures alone, its self-test where that is not here."""
    if not device.link:
        return [(None, None, None)] * len(artifacts)
    link = connect(device.link)
    try:
        if device.link not in _HERE:
            tell(f"sending {', '.join(artifact.name for artifact in artifacts)}")
        paths = [link.put(artifact.path) for artifact in artifacts]
        selftests = _selftests(link, artifacts, paths, device, earlier, tell)
        if device.emulated:
            return [(None, None, one) for one in selftests]
        settings = [*device.settings, *([] if inputs is None else ["--inputs", link.put(inputs)])]
        timings, alone = _times(link, artifacts, paths, runs, settings, earlier, tell)
        return list(zip(timings, alone, selftests, strict=True))
    finally:
        link.close()


def _selftests(
    link: Link,
    artifacts: Sequence[Artifact],
    paths: Sequence[str],
    device: Device,
    earlier: Mapping[Path, Row],
    tell: Progress,
) -> Sequence[SelfTest | None]:
    new = [path for a, path in zip(artifacts, paths, strict=True) if a.path not in earlier and a.asset(GOLDEN)]
    if device.link in _HERE or not device.replays or not new:
        return [None] * len(artifacts)
    tell("replaying the golden samples")
    found = read_selftests(answered(link.run(["-m", "edgepress.runtime.selftest", *new], TIMEOUT_S * len(new))))
    if len(found) != len(new):
        raise DeviceError(f"the device gave {len(found)} self-tests for {len(new)} artifacts; set it up again")
    by_path = dict(zip(new, found, strict=True))
    return [by_path.get(path) for path in paths]


def _times(
    link: Link,
    artifacts: Sequence[Artifact],
    paths: Sequence[str],
    runs: int,
    settings: Sequence[str],
    earlier: Mapping[Path, Row],
    tell: Progress,
) -> tuple[Sequence[Timing], Sequence[Alone | None]]:
    if len(paths) == 1:
        tell(f"timing {artifacts[0].name} in a process of its own")
        timings = _bench(link, paths, runs, settings)
        return timings, [_alone(timings[0])]
    alone = []
    for artifact, path in zip(artifacts, paths, strict=True):
        row = earlier.get(artifact.path)
        if row is None:
            tell(f"timing {artifact.name} in a process of its own")
        alone.append(_alone(_bench(link, [path], 1, settings)[0]) if row is None else row.alone)
    tell(f"timing {', '.join(artifact.name for artifact in artifacts)} in turn")
    return _bench(link, paths, runs, settings), alone


def _bench(link: Link, paths: Sequence[str], runs: int, settings: Sequence[str]) -> tuple[Timing, ...]:
    arguments = ["-m", "edgepress.runtime.bench", *paths, "--runs", str(runs), *settings]
    timings = from_json(answered(link.run(arguments, TIMEOUT_S * len(paths))))
    if len(timings) != len(paths):
        raise DeviceError(f"the bench gave {len(timings)} timings for {len(paths)} artifacts; upgrade it on the device")
    return timings


def _alone(timing: Timing) -> Alone:
    return Alone(timing.load_ms, timing.first_run_ms, timing.cold_start_ms, timing.peak_memory, timing.language)


def _row(
    artifact: Artifact,
    device: Device,
    timing: Timing | None,
    alone: Alone | None,
    score: Mapping[str, float] | None,
    selftest: SelfTest | None,
    earlier: Row | None,
    shares: Shares | None,
) -> Row:
    known = None if earlier is None else earlier.compressed
    if earlier is None or earlier.placement is None:
        placement, unplaced = shares_of(artifact, () if timing is None else timing.placed, shares)
    else:
        placement, unplaced = earlier.placement, ()
    return Row(
        name=artifact.name,
        path=artifact.path,
        format=artifact.format,
        bytes=artifact.bytes,
        sha256=describe(artifact.model).sha256,
        device=device.name,
        timing=None if timing is None else replace(timing, placed=()),
        alone=alone,
        score=score,
        selftest=selftest,
        doubts=(*_doubts(device, artifact.format, timing, score, selftest), *unplaced),
        compressed=deflated(artifact) if known is None else known,
        history=artifact.history,
        tools=artifact.tools,
        placement=placement,
    )


def _doubts(
    device: Device, form: str, timing: Timing | None, score: Mapping[str, float] | None, selftest: SelfTest | None
) -> Iterator[Doubt]:
    if device.emulated:
        text = f"emulated, not a measurement: {device.name} computes what the board does, and its speed says nothing"
        yield Doubt("emulated", text)
    elif timing is None:
        text = f"nothing was timed on {device.name}: its profile has no address; give one to measure it there"
        yield Doubt("not-timed", text)
    else:
        yield from timing.doubts
        if form == "web" and device.link != "browser":
            yield Doubt("not-in-browser", f"timed on {device.name}, outside of a browser; in one: --on browser")
    if not device.replays:
        text = f"the golden samples are not replayed on {device.name}: its benchmark gives no outputs; see --on local"
        yield Doubt("not-replayed", text)
    judged = [*(["score"] if score is not None else []), *(["self-test"] if selftest and not device.link else [])]
    if device.link not in _HERE and judged:
        text = f"{' and '.join(judged)} from this machine's engine, not from {device.name}"
        yield Doubt("judged-here", text)
    if selftest is not None and not selftest.passed:
        seen = f"{selftest.difference:.1e}, tolerance {selftest.tolerance:.1e}"
        yield Doubt("self-test", f"the outputs differ from the golden ones ({seen}); do not ship this file")
