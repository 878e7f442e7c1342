"""Budget: what a model may cost, whether it does, and whether a step pays for itself."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from ..runtime.errors import UnknownName, UsageError
from .measure import Ratio, Row, speed
from .words import show_bytes, show_ms, show_points, show_times

# Changes that are no news: bytes and memory by share, latency by the quartile of the round ratios that is nearer to 1.
# The same file's peak memory jumps by 8 MB in one process of fourteen (103 to 111 MB): the allocator, not the model.
SAME_SIZE = 0.01
SAME_SPEED = 0.02
SAME_MEMORY = 0.10
# A score: half a sample of a thousand.
SAME_SCORE = 0.0005
# How far the first score may fall from the baseline where the budget does not say: one point of a hundred.
DEFAULT_DROP = 0.01

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MS = {"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}
_POINTS = {"%": Decimal("0.01")}
_UNITS = {"size": _BYTES, "latency": _MS, "memory": _BYTES, "drop": _POINTS}
_LIMIT = re.compile(r"([a-z]+)\s*<=?\s*(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)")


@dataclass(frozen=True)
class Budget:
    """Limits, each reached but not passed; None is not asked.

    `size` is in bytes on disk, `latency` the p50 in ms, `memory` the peak in bytes, `drop` how far the first score
    may fall from the baseline's: 0.01 is 1 %, one point of a score in [0, 1].
    """

    size: int | None = None
    latency: float | None = None
    memory: int | None = None
    drop: float | None = None

    def __str__(self) -> str:
        limits = {name: getattr(self, name) for name in _UNITS}
        return ", ".join(f"{name}<{_limit_words(name, x)}" for name, x in limits.items() if x is not None)


@dataclass(frozen=True)
class Verdict:
    """Whether a step is kept, its figures in one sentence, and what is against it.

    `healable`: that is its score alone, which a training may bring back.
    """

    kept: bool
    figures: str
    against: str = ""
    healable: bool = False

    @property
    def why(self) -> str:
        """The figures, and why they were not enough."""
        return self.figures if self.kept else f"{self.figures}; undone: {self.against}"

    def healed(self, by: str) -> str:
        """The same, where the pass `by` brought back what was lost."""
        return f"{self.figures}; brought back by {by}: {self.against}"


@dataclass(frozen=True)
class _Change:
    """One figure of a candidate beside its predecessor's: in words, and whether it is better, worse, or neither."""

    name: str
    words: str
    better: bool = False
    worse: bool = False


def parse_budget(text: str) -> Budget:
    """Read limits: `size<15MB, latency<20ms, memory<100MB, drop<1%`; `<=` means the same.

    Units: B, kB, MB, GB, KiB, MiB, GiB; us, ms, s; for `drop` the points of a score, in %. Raises UsageError.

    >>> parse_budget("size<=1MB, drop<0.5%")
    Budget(size=1000000, latency=None, memory=None, drop=0.005)
    """
    found: dict[str, Decimal] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part and not text.strip():
            break
        name, value = _limit(part)
        if name in found:
            raise UsageError(f"the budget names {name} twice; expected it once")
        found[name] = value
    size, latency, memory, drop = (found.get(name) for name in _UNITS)
    return Budget(
        size=None if size is None else int(size),
        latency=None if latency is None else float(latency),
        memory=None if memory is None else int(memory),
        drop=None if drop is None else float(drop),
    )


def misses(row: Row, baseline: Row, budget: Budget) -> tuple[str, ...]:
    """What of the budget a row does not meet, in words with figures. What could not be measured is a miss.

    >>> misses(row, baseline, parse_budget("latency<2ms"))
    ('latency 2.3 ms, budget < 2 ms',)
    """
    return tuple(_misses(row, baseline, budget).values())


def misses_of_all(rows: Sequence[Row], baseline: Row, budget: Budget) -> tuple[str, ...]:
    """What the rows of one model in several formats miss, each told with its format; see `misses`.

    >>> misses_of_all((onnx, tflite), baseline, parse_budget("latency<2ms"))
    ('tflite: latency 2.3 ms, budget < 2 ms',)
    """
    if len(rows) == 1:
        return misses(rows[0], baseline, budget)
    return tuple(f"{row.format}: {miss}" for row in rows for miss in misses(row, baseline, budget))


def judge(candidate: Row, predecessor: Row, baseline: Row, budget: Budget) -> Verdict:
    """Whether the step from `predecessor` to `candidate` pays.

    It pays where it makes size, latency, peak memory, the first score or the compressed download better beyond noise,
    makes neither size nor latency worse beyond noise (unless the budget names that limit and the candidate meets it, or
    names only the other one and the candidate is the first to meet that), and its first score does not fall further
    below the baseline's than the budget's drop (1 % where it names none). Beyond noise is 1 % of the bytes, 10 % of the
    peak memory, 0.05 points of the score, and for latency the nearer quartile of the round ratios 2 % off. A step that
    only the download gains by must make nothing worse, and its verdict says that it is no faster. The two must be timed
    in the same run.

    >>> judge(int8, fp32, fp32, parse_budget("drop<1%")).why
    '0.31x the bytes, 1.83x as fast, 0.95x the peak memory; top1 -0.19 points'
    """
    changes = [_size_change(candidate, predecessor), *_latency_change(candidate, predecessor)]
    changes += _memory_change(candidate, predecessor) + _download_change(candidate, predecessor)
    missed = _misses(candidate, baseline, budget)
    asked = {"size": budget.size, "latency": budget.latency}
    excused = {name for name, limit in asked.items() if limit is not None and name not in missed}
    if excused & _misses(predecessor, baseline, budget).keys():  # what was asked for is worth what was not
        excused |= {name for name, limit in asked.items() if limit is None}
    against = [c.name for c in changes if c.worse and c.name in asked and c.name not in excused]
    reasons = [f"worse {' and '.join(against)}"] if against else []
    better = [change.name for change in changes if change.better]
    better += ["score"] if _rises(candidate, predecessor) else []
    if not better:
        reasons.append("nothing is better beyond noise")
    elif better == ["download"] and not against and any(change.worse for change in changes):
        reasons.append("only the download is better")
    lost = _score_reasons(candidate, baseline, budget)
    healable = bool(lost) and not reasons
    reasons += lost
    figures = ", ".join(change.words for change in changes) + f"; {_score_words(candidate, baseline)}"
    if better == ["download"] and not reasons:
        figures += f"; smaller as a download only, {_unchanged(candidate)}"
    return Verdict(not reasons, figures, ", ".join(reasons), healable)


def _limit(part: str) -> tuple[str, Decimal]:
    match = _LIMIT.fullmatch(part)
    if not match:
        raise UsageError(f"the budget says {part!r}; expected limits like 'size<15MB, latency<20ms, drop<1%'")
    name, number, unit = match.groups()
    if name not in _UNITS:
        raise UnknownName("budget", name, _UNITS)
    if unit not in _UNITS[name]:
        known = ", ".join(_UNITS[name])
        raise UsageError(f"the budget for {name} is in {unit or 'no unit'!r}; expected one of: {known}")
    value = Decimal(number) * _UNITS[name][unit]
    if (name != "drop" and not value) or (name in ("size", "memory") and value < 1):
        raise UsageError(f"the budget says {part!r}; expected a limit above 0")
    return name, value


def _limit_words(name: str, limit: float) -> str:
    """Exactly as it was asked for, in the largest unit of which it is one or more: `105kB`, `1.5ms`."""
    exact = Decimal(repr(limit))
    units = sorted((size, unit) for unit, size in _UNITS[name].items() if "i" not in unit)
    size, unit = ([pair for pair in units if pair[0] <= exact] or units[:1])[-1]
    return f"{_plain(exact / size)}{unit}"


def _misses(row: Row, baseline: Row, budget: Budget) -> dict[str, str]:
    """What is missed, by the name of the limit."""
    found = {}
    if budget.size is not None and row.bytes > budget.size:
        found["size"] = f"size {show_bytes(row.bytes)}, budget < {show_bytes(budget.size)}"
    if budget.latency is not None:
        p50 = None if row.timing is None else row.timing.p50
        if p50 is None or p50 > budget.latency:
            seen = f"latency not measured on {row.device}" if p50 is None else f"latency {show_ms(p50)}"
            found["latency"] = f"{seen}, budget < {show_ms(budget.latency)}"
    if budget.memory is not None:
        memory = _memory(row)
        if memory is None or memory > budget.memory:
            seen = f"not measured on {row.device}" if memory is None else show_bytes(memory)
            found["memory"] = f"peak memory {seen}, budget < {show_bytes(budget.memory)}"
    if budget.drop is not None:
        missed = _drop_miss(row, baseline, budget.drop)
        found |= {} if missed is None else {"drop": missed}
    return found


def _size_change(row: Row, before: Row) -> _Change:
    ratio = row.bytes / before.bytes
    return _Change("size", f"{show_times(ratio)} the bytes", ratio <= 1 - SAME_SIZE, ratio > 1 + SAME_SIZE)


def _latency_change(row: Row, before: Row) -> list[_Change]:
    """The latency's ratio, its quartiles against the noise; says so where nothing was timed."""
    if row.timing is None or before.timing is None:
        return [_Change("latency", f"latency not measured on {row.device}")]
    took = speed(before.timing, row.timing)
    return [_Change("latency", _speed_words(took, row, before), took.high < 1 - SAME_SPEED, took.low > 1 + SAME_SPEED)]


def _speed_words(took: Ratio, row: Row, before: Row) -> str:
    if took.low <= 1 + SAME_SPEED:
        return f"{show_times(1 / took.median)} as fast"
    assert row.timing is not None
    assert before.timing is not None
    return f"{show_times(took.median)} slower ({show_ms(row.timing.p50)}, was {show_ms(before.timing.p50)})"


def _memory_change(row: Row, before: Row) -> list[_Change]:
    now, was = _memory(row), _memory(before)
    if now is None or was is None:
        return []
    ratio = now / was
    better, worse = ratio <= 1 - SAME_MEMORY, ratio > 1 + SAME_MEMORY
    return [_Change("memory", f"{show_times(ratio)} the peak memory", better, worse)]


def _download_change(row: Row, before: Row) -> list[_Change]:
    if not row.compressed or not before.compressed:
        return []
    ratio = row.compressed / before.compressed
    return [_Change("download", f"{show_times(ratio)} compressed", ratio <= 1 - SAME_SIZE)]


def _unchanged(row: Row) -> str:
    return "latency unchanged" if row.timing is not None else "the file as it lies on disk unchanged"


def _memory(row: Row) -> int | None:
    return None if row.alone is None else row.alone.peak_memory


def _fall(row: Row, baseline: Row) -> tuple[str, float] | None:
    """The first score's name and how far it fell from the baseline's; None where either has none.

    Raises UsageError where the two were judged by different scores.
    """
    if not row.score or not baseline.score:
        return None
    name = next(iter(baseline.score))
    if name not in row.score:
        raise UsageError(f"{row.name} has no score {name!r}, {baseline.name} has; judge both with the same score")
    return name, baseline.score[name] - row.score[name]


def _rises(row: Row, before: Row) -> bool:
    fell = _fall(row, before)
    return fell is not None and fell[1] < -SAME_SCORE


def _score_words(row: Row, baseline: Row) -> str:
    fell = _fall(row, baseline)
    return "no score" if fell is None else f"{fell[0]} {show_points(-fell[1])} points"


def _score_reasons(row: Row, baseline: Row, budget: Budget) -> list[str]:
    if budget.drop is None and not row.score:
        return []
    missed = _drop_miss(row, baseline, DEFAULT_DROP if budget.drop is None else budget.drop)
    if missed is None:
        return []
    return [missed if budget.drop is not None else f"{missed} (the default)"]


def _drop_miss(row: Row, baseline: Row, limit: float) -> str | None:
    fell = _fall(row, baseline)
    if fell is None:
        return f"drop not judged: there is no score, budget < {100 * limit:g} %"
    name, amount = fell
    # A hair of rounding is no drop: 0.99 - 0.98 is 0.010000000000000009.
    if amount <= limit or math.isclose(amount, limit, abs_tol=1e-9):
        return None
    seen = f"{name} is NaN" if math.isnan(amount) else f"drop of {name} {100 * amount:.2f} points"
    return f"{seen}, budget < {100 * limit:g} %"


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
