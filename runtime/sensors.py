"""Sensors: temperature, frequency and throttling, read while something runs. Null where the system does not tell.

Sources: the kernel's thermal and cpufreq sysfs documents; thermal_throttle's counters on x86; on a Raspberry Pi the
firmware's `vcgencmd` (raspberrypi.com/documentation, "vcgencmd"), whose clock is the real one: the kernel tells the
frequency that it asked for.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Bits of `vcgencmd get_throttled` that tell of now; the same ones 16 higher tell of the time since the start.
FLAGS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_THERMAL = "thermal throttling"
_PROCESSOR = re.compile(r"cpu|soc|core|x86_pkg", re.IGNORECASE)
_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Places:
    """Where a system tells of itself: its `/sys`, and the folders with `vcgencmd`, written as PATH is (None: PATH)."""

    sys: Path = Path("/sys")
    path: str | None = None


@dataclass(frozen=True)
class Reading:
    """One look: the hottest sensor of the processor, the fastest core, what slows it down now.

    `throttled` are the reasons in words, empty where there is none, None where nothing tells. `events` is a counter of
    the times that it was slowed down.
    """

    temperature_c: float | None
    frequency_mhz: float | None
    throttled: tuple[str, ...] | None
    events: int | None = None

    def since(self, earlier: "Reading") -> tuple[str, ...] | None:
        """Why the processor was slowed down, now or since an earlier look."""
        if self.events is None or earlier.events is None:
            return self.throttled
        return (*(self.throttled or ()), *([_THERMAL] if self.events > earlier.events else []))


def look(places: Places) -> Reading:
    """Read all sensors; two short calls of `vcgencmd` on a Raspberry Pi, files elsewhere.

    >>> look(Places())
    Reading(temperature_c=51.2, frequency_mhz=2400.0, throttled=())
    """
    bits = _firmware(places, ["get_throttled"], r"throttled=0x([0-9a-fA-F]+)")
    clock = _firmware(places, ["measure_clock", "arm"], r"=(\d+)") if bits is not None else None
    return Reading(
        temperature_c=_temperature(places.sys),
        frequency_mhz=_frequency(places.sys) if clock is None else int(clock) / 1e6,
        throttled=None if bits is None else tuple(words for bit, words in FLAGS.items() if int(bits, 16) >> bit & 1),
        events=_events(places.sys),
    )


def vcgencmd(places: Places, arguments: Sequence[str]) -> str | None:
    """What the firmware of a Raspberry Pi answers; None where there is none, or no answer."""
    program = shutil.which("vcgencmd", path=places.path)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def number(path: Path) -> int | None:
    """The integer that a file of sysfs holds; None where it is not there, may not be read or holds something else."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def word(path: Path) -> str:
    """The text that a file of sysfs holds; "" where it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _firmware(places: Places, arguments: Sequence[str], pattern: str) -> str | None:
    match = re.search(pattern, vcgencmd(places, arguments) or "")
    return match[1] if match else None


def _temperature(sys: Path) -> float | None:
    """The hottest zone of the processor; where none is named so, the first zone."""
    zones = sorted((sys / "class" / "thermal").glob("thermal_zone*"))
    named = [zone for zone in zones if _PROCESSOR.search(word(zone / "type"))] or zones[:1]
    return max((t / 1000 for zone in named if (t := number(zone / "temp")) is not None), default=None)


def _frequency(sys: Path) -> float | None:
    files = (sys / "devices" / "system" / "cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    return max((khz / 1000 for file in files if (khz := number(file)) is not None), default=None)


def _events(sys: Path) -> int | None:
    files = (sys / "devices" / "system" / "cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts = [count for file in files if (count := number(file)) is not None]
    return sum(counts) if counts else None
