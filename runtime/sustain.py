"""Sustain: one model run without a pause for minutes, second by second: a device that heats up slows down.

A fan-less board holds its top frequency for half a minute; what an app sees after that is the last fifth of this curve.
"""

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from .energy import Energy, Meter, find_meter
from .errors import UsageError
from .machine import Doubt, counters, disturbance
from .sensors import Places, Reading, look

MOST = 3600  # moments of a curve: one a second for an hour, wider ones for longer
IDLE_S = 3.0  # what is drawn while nothing runs, looked at beforehand
_LEAST = 10  # moments, below which the fifths of a curve say nothing
_SLOWER = 1.05
_BUSIER = 0.25  # cores


@dataclass(frozen=True)
class Moment:
    """A second or so of the run: when it ended (seconds), its calls, the median and the slowest in ms, the sensors.

    `throttled` are reasons in words: none where it is empty, None where the system does not tell. `others` is how
    many cores other programs kept busy.
    """

    at: float
    runs: int
    p50: float
    slowest: float
    temperature_c: float | None
    frequency_mhz: float | None
    throttled: tuple[str, ...] | None
    others: float | None = None


@dataclass(frozen=True)
class Sustained:
    """What became of the latency in `seconds` of work without a pause; `energy` where the machine can tell."""

    seconds: float
    runs: int
    curve: tuple[Moment, ...]
    energy: Energy | None = None

    @property
    def first(self) -> float:
        """The latency in ms at first: the median over the first fifth of the curve."""
        return median(moment.p50 for moment in self._fifths()[0])

    @property
    def last(self) -> float:
        """The latency in ms at last: the median over the last fifth of the curve."""
        return median(moment.p50 for moment in self._fifths()[1])

    @property
    def slower(self) -> bool:
        """True where the last fifth is slower beyond noise: by 5 %, and most moments than most of the first fifth's."""
        if len(self.curve) < _LEAST:
            return False
        first, last = ([moment.p50 for moment in part] for part in self._fifths())
        return self.last > _SLOWER * self.first and float(np.percentile(last, 25)) > float(np.percentile(first, 75))

    @property
    def throttled(self) -> dict[str, float]:
        """The reasons for which the system slowed the processor down, each with the second when that was first seen."""
        found: dict[str, float] = {}
        for moment in self.curve:
            for reason in moment.throttled or ():
                found.setdefault(reason, moment.at)
        return found

    @property
    def others(self) -> tuple[float, float]:
        """Cores that other programs kept busy at first and at last; 0 where the system does not tell."""
        first, last = (median(moment.others or 0.0 for moment in part) for part in self._fifths())
        return first, last

    def _fifths(self) -> tuple[Sequence[Moment], Sequence[Moment]]:
        fifth = max(1, len(self.curve) // 5)
        return self.curve[:fifth], self.curve[-fifth:]


def sustain(
    call: Callable[[], object],
    seconds: float,
    *,
    every: float = 1.0,
    idle: float = IDLE_S,
    places: Places | None = None,
) -> Sustained:
    """Run `call` without a pause; a moment of the curve is `every` seconds long, or longer where there were over MOST.

    The sensors are read between two calls, which costs a Raspberry Pi some ms a second and others less. Where a meter
    is found, nothing runs for the first `idle` seconds. Raises UsageError for no time at all.

    >>> sustain(lambda: model(**inputs), 300).last
    0.213
    """
    if not seconds > 0 or not every > 0:
        raise UsageError(f"a sustained run of {seconds:g} s in moments of {every:g} s; expected more than 0")
    places = places or Places()
    meter, every = find_meter(places), max(every, seconds / MOST)
    idle_watts = None if meter is None or not idle > 0 else _idle(meter, idle)
    before = (0.0, 0.0) if meter is None else (meter.joules(), meter.asked)
    curve, earlier, counted = [], look(places), counters()
    start = time.perf_counter()
    for taken in _moments(call, start, seconds, every):
        counts = counters()
        others = disturbance(counted, counts).others
        reading = look(places)
        curve.append(_moment(taken, time.perf_counter() - start, reading, earlier, others))
        earlier, counted = reading, counts
        if meter is not None:
            meter.joules()
    took, runs = time.perf_counter() - start, sum(moment.runs for moment in curve)
    return Sustained(took, runs, tuple(curve), _energy(meter, before, runs, took, idle_watts))


def doubts(found: Sustained) -> Iterator[Doubt]:
    """What is to be said of a curve: the device was slowed down, or became slower without saying why."""
    hint = "cool it, or count on the latency at last"
    if found.throttled:
        reasons = ", ".join(f"{reason} after {at:.0f} s" for reason, at in found.throttled.items())
        yield Doubt("throttled", f"the processor was slowed down in the sustained run: {reasons}; {hint}")
    elif found.slower:
        more = f"the last fifth of the sustained run is {found.last / found.first - 1:.0%} slower than the first"
        first, last = found.others
        if last > first + _BUSIER:
            busy = f"other programs kept {last:.1f} cores busy by then, {first:.1f} at first: close them"
            yield Doubt("other-load", f"{more}; {busy}")
        else:
            yield Doubt("throttled", f"{more}; {hint}")


def read_sustained(raw: dict[str, Any]) -> Sustained:
    """A Sustained from the dictionary that `asdict` makes of it. Raises TypeError, KeyError for something else."""
    curve = tuple(Moment(**moment | {"throttled": _reasons(moment["throttled"])}) for moment in raw["curve"])
    energy = None if raw["energy"] is None else Energy(**raw["energy"])
    return Sustained(**raw | {"curve": curve, "energy": energy})


def _moments(call: Callable[[], object], start: float, seconds: float, every: float) -> Iterator[array]:
    """The latencies in ms of each moment, one call at least; they are forgotten with the moment."""
    clock = time.perf_counter
    count = 0
    while clock() < start + seconds:
        count += 1
        end = start + min(seconds, count * every)
        taken = array("d")
        begun = clock()
        while True:
            call()
            ended = clock()
            taken.append(1000 * (ended - begun))
            begun = ended
            if ended >= end:
                break
        yield taken


def _moment(taken: array, at: float, reading: Reading, earlier: Reading, others: float | None) -> Moment:
    p50, slowest = float(np.median(taken)), max(taken)
    reasons = reading.since(earlier)
    return Moment(at, len(taken), p50, slowest, reading.temperature_c, reading.frequency_mhz, reasons, others)


def _idle(meter: Meter, seconds: float) -> float:
    before, start = meter.joules(), meter.asked
    time.sleep(seconds)
    return (meter.joules() - before) / (meter.asked - start)


def _energy(
    meter: Meter | None, before: tuple[float, float], runs: int, seconds: float, idle_watts: float | None
) -> Energy | None:
    if meter is None:
        return None
    watts = (meter.joules() - before[0]) / (meter.asked - before[1])
    return Energy(watts * seconds / runs, watts, idle_watts, meter.source, meter.what)


def _reasons(raw: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if raw is None else tuple(raw)
