"""Provenance: where a report's figures are from, as names and values: device, machine, run, files, history."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..runtime.timing import Timing
from .measure import Row
from .report import Report
from .words import show_bytes

Fact = tuple[str, str]


def setting(report: Report) -> Iterator[Fact]:
    """What holds for all rows: the device, and the machines that their latencies were taken on.

    >>> dict(setting(report))["device"]
    'host: AMD EPYC, x86_64, 16,004 MB of memory'
    """
    device = report.device
    memory = "" if device.ram_mb is None else f", {device.ram_mb:,} MB of memory"
    yield "device", f"{device.name}: {device.cpu}, {device.arch}{memory}"
    if device.description:
        yield "profile", device.description
    yield "address", device.link or "none: nothing was timed there"
    timings = [row.timing for row in report.rows if row.timing is not None]
    yield from _each("machine", (_machine(timing) for timing in timings))
    yield from _each("system", (t.machine.software for t in timings))
    yield from _each("state", (_state(timing) for timing in timings))
    yield from _each("threads", ("the engine's choice" if t.threads is None else str(t.threads) for t in timings))
    yield from _each("run", (timing.run for timing in timings))
    yield from _each("tools", (", ".join(" ".join(tool) for tool in row.tools.items()) for row in report.rows))
    for source in device.sources:
        yield "source of the profile", source


def models(report: Report) -> Iterator[tuple[Row, tuple[Fact, ...]]]:
    """What holds for one row: its file and hash, the samples behind its figures, what was done to the model."""
    for row in report.rows:
        yield row, tuple(fact for fact in _model(row) if fact[1])


def _model(row: Row) -> Iterator[Fact]:
    yield "file", str(row.path)
    yield "sha256", row.sha256
    yield "format", f"{row.format}, {row.bytes:,} bytes"
    if row.compressed:
        yield "as a download", f"{show_bytes(row.compressed)}, deflated"
    if row.timing is not None:
        t = row.timing
        yield "samples", f"{len(t.samples):,} runs in {len(t.rounds)} rounds, batch {t.batch}"
        yield "inputs", ", ".join(f"{name}[{', '.join(map(str, shape))}]" for name, shape in t.shapes.items())
        yield "providers", ", ".join(t.providers)
        yield "disturbed by", _disturbance(t)
    if row.selftest is not None:
        seen = f"difference {row.selftest.difference:.1e}, tolerance {row.selftest.tolerance:.1e}"
        verdict = "passed" if row.selftest.passed else "failed"
        yield "golden samples", f"{verdict}: {row.selftest.cases}, {seen}"
    for index, step in enumerate(row.history, 1):
        note = f": {step.note}" if step.note else ""
        yield f"step {index}", f"{step.name}({_settings(step.settings)}){note}"


def _machine(timing: Timing) -> str:
    machine = timing.machine
    memory = "" if machine.ram_mb is None else f", {machine.ram_mb:,} MB of memory"
    return f"{machine.cpu}, {machine.arch}, {machine.cores} cores{memory}"


def _state(timing: Timing) -> str:
    machine = timing.machine
    parts = {
        "governor": machine.governor,
        "MHz": None if machine.frequency_mhz is None else f"{machine.frequency_mhz:.0f}",
        "°C": None if machine.temperature_c is None else f"{machine.temperature_c:.0f}",
        "load": None if machine.load is None else f"{machine.load:g}",
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _disturbance(timing: Timing) -> str:
    seen = timing.disturbance
    others = "" if seen.others is None else f"{seen.others:.2f} cores of other programs, "
    steal = "" if seen.steal is None else f"{seen.steal:.0%} stolen by the hypervisor, "
    return f"{others}{steal}{seen.switches:,} involuntary switches in {seen.seconds:.1f} s"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in values.items())


def _each(name: str, values: Iterator[str]) -> Iterator[Fact]:
    """Each different value once: rows that differ are told as such."""
    for value in dict.fromkeys(value for value in values if value):
        yield name, value
