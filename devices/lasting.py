"""Lasting: a sustained run on a device, and what it says in a line."""

import re
from dataclasses import replace
from pathlib import Path

from ..runtime.artifact import Artifact
from ..runtime.energy import Energy
from ..runtime.errors import DeviceError, UsageError
from ..runtime.sustain import Sustained, doubts
from .benching import benching
from .device import Device
from .measure import Row
from .words import show_ms, show_times

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def read_seconds(text: str) -> float:
    """Seconds of `90`, `90s`, `5m` or `1.5h`. Raises UsageError for anything else, and for no time at all.

    >>> read_seconds("5m")
    300.0
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if match is None or not float(match[1]):
        raise UsageError(f"{text!r} is no time; expected one above 0 as 90s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def sustained(row: Row, artifact: Artifact, device: Device, seconds: float, inputs: Path | None = None) -> Row:
    """The row of an artifact with a run of `seconds` without a pause, in a process of its own, and its doubts."""
    with benching([artifact], device, inputs) as bench:
        seen = bench(artifact, "--runs", "10", "--sustain", str(seconds), seconds=seconds)
    if seen.sustained is None:
        raise DeviceError(f"the bench on {device.name} knows no sustained run; upgrade it there")
    timing = replace(row.timing or seen, sustained=seen.sustained)
    return replace(row, timing=timing, doubts=(*row.doubts, *doubts(seen.sustained)))


def show_sustained(seen: Sustained) -> str:
    """A sustained run in a line: the latency at first and at last, heat, clock, throttling, energy.

    >>> show_sustained(timing.sustained)
    '300 s: 0.15 ms at first, 0.21 ms at last (1.40x), 48 to 85 °C, 2400 to 1500 MHz, frequency capped after 97 s'
    """
    times = show_times(seen.last / seen.first)
    words = [f"{seen.seconds:.0f} s: {show_ms(seen.first)} at first, {show_ms(seen.last)} at last ({times})"]
    degrees = [moment.temperature_c for moment in seen.curve if moment.temperature_c is not None]
    clocks = [moment.frequency_mhz for moment in seen.curve if moment.frequency_mhz is not None]
    words += [f"{seen[0]:.0f} to {seen[-1]:.0f} {unit}" for seen, unit in ((degrees, "°C"), (clocks, "MHz")) if seen]
    told = any(moment.throttled is not None for moment in seen.curve)
    words += [f"{reason} after {at:.0f} s" for reason, at in seen.throttled.items()] or ["not throttled"] * told
    return ", ".join([*words, *([] if seen.energy is None else [_energy(seen.energy)])])


def _energy(energy: Energy) -> str:
    """All that the meter saw, with the idle power beside it: what belongs to the model alone nobody can say."""
    idle = "" if energy.idle_watts is None else f"; {energy.idle_watts:.3g} W while idle"
    return f"{1000 * energy.joules_per_run:.3g} mJ a run ({energy.watts:.3g} W{idle}; {energy.what})"
