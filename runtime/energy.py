"""Energy: what a run takes, where the machine can tell, and of which part of it.

    E per run = ∫ P dt / runs

No meter sees the same: RAPL counts the processor alone, the Pi 5's PMIC the rails that it feeds and not the input, a
battery the whole machine. So a figure says what it is of, and figures of two sources are not to be compared.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .sensors import Places, number, vcgencmd, word

# Rails of `pmic_read_adc` that are no load: the input, and the battery of the clock.
_NO_LOAD = {"EXT5V", "BATT"}
_RAIL = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Energy:
    """What a run took: all that the meter saw, idle power included.

    `idle_watts` is what the meter saw before, while nothing ran; None where that was not measured. `source` is `pmic`,
    `rapl` or `battery`, `what` the part of the machine in words.
    """

    joules_per_run: float
    watts: float
    idle_watts: float | None
    source: str
    what: str


@dataclass
class Meter:
    """A meter that adds up: `joules()` are those since it was found; ask it every second or so.

    `read` gives the joules that came since it was last asked, from the seconds that went by.
    """

    source: str
    what: str
    read: Callable[[float], float]
    total: float = 0.0
    asked: float = field(default_factory=time.perf_counter)

    def joules(self) -> float:
        """Joules so far."""
        now = time.perf_counter()
        self.total += self.read(now - self.asked)
        self.asked = now
        return self.total


def find_meter(places: Places) -> Meter | None:
    """The meter of this machine: a Pi 5's PMIC, RAPL, else a battery that drives the machine. None where none tells.

    >>> find_meter(Places()).what
    'the processor packages, without memory, board and screen'
    """
    return _pmic(places) or _rapl(places.sys) or _battery(places.sys)


def rails(text: str) -> Mapping[str, float]:
    """Watts by rail, from what `vcgencmd pmic_read_adc` prints: the current and the voltage of one name.

    >>> rails("VDD_CORE_A current(7)=2.0A\\nVDD_CORE_V volt(15)=0.75V")
    {'VDD_CORE': 1.5}
    """
    found: dict[str, dict[str, float]] = {}
    for name, unit, value in _RAIL.findall(text):
        found.setdefault(name, {})[unit] = float(value)
    return {n: r["A"] * r["V"] for n, r in found.items() if n not in _NO_LOAD and set(r) == {"A", "V"}}


def _pmic(places: Places) -> Meter | None:
    def watts() -> float | None:
        found = rails(vcgencmd(places, ["pmic_read_adc"]) or "")
        return sum(found.values()) if found else None

    return _of_power("pmic", "the rails of the PMIC, not the board's total input", watts)


def _rapl(sys: Path) -> Meter | None:
    """All processor packages; counters in µJ, each of which begins again beyond its range."""
    zones = [zone for zone in (sys / "class" / "powercap").glob("intel-rapl:*") if _is_package(zone)]
    last = {zone: number(zone / "energy_uj") for zone in zones}
    if not last or None in last.values():
        return None

    def joules(_: float) -> float:
        gained = 0
        for zone, before in last.items():
            now = number(zone / "energy_uj")
            if now is not None and before is not None:
                gained += now - before if now >= before else now - before + (number(zone / "max_energy_range_uj") or 0)
                last[zone] = now
        return gained / 1e6

    return Meter("rapl", "the processor packages, without memory, board and screen", joules)


def _is_package(zone: Path) -> bool:
    """Zones within a package (`core`, `dram`) are counted in it, `psys` counts it once more."""
    return word(zone / "name").startswith("package")


def _battery(sys: Path) -> Meter | None:
    batteries = sorted((sys / "class" / "power_supply").glob("BAT*"))

    def watts() -> float | None:
        found = [_drawn(battery) for battery in batteries if word(battery / "status") == "Discharging"]
        known = [one for one in found if one is not None]
        return sum(known) if known else None

    return _of_power("battery", "the whole machine, from its battery", watts)


def _drawn(battery: Path) -> float | None:
    power = number(battery / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = number(battery / "current_now"), number(battery / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def _of_power(source: str, what: str, watts: Callable[[], float | None]) -> Meter | None:
    """A meter that tells power: its mean of two looks, times the seconds between them."""
    last = watts()
    if last is None:
        return None

    def joules(seconds: float) -> float:
        nonlocal last
        assert last is not None
        before, now = last, watts()
        last = before if now is None else now
        return seconds * (before + last) / 2

    return Meter(source, what, joules)
