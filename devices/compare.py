"""Compare: two reports of the same models, before and after: what moved beyond noise.

Bytes and scores are exact, so any change of them counts. A latency is noisy twice over: from round to round, and from
run to run (another process, other pages, other programs beside it), which no test over the rounds of two runs can see.
So it has moved where both hold:

- the medians of the two runs' rounds are not of one distribution, by the two-sided U test of Mann and Whitney (1947,
  "On a test of whether one of two random variables is stochastically larger than the other"), p < `P`;
- their medians lie further apart than the noise: `SAME_RUN`, the runs' own spread (p90 over p50), and `DISTURBED` where
  other programs or the hypervisor took processor time.

Of 14 runs of one file beside programs that kept 1.2 to 1.4 of 2 cores busy, the U test alone tells 45 % of the pairs
apart (p < 0.01), with medians up to 1.6x apart (ONNX Runtime 1.32, one thread); with the second condition none.
Latencies and memory of different machines are never compared.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.errors import UsageError
from ..runtime.files import read_text
from ..runtime.timing import Timing
from .budget import SAME_MEMORY
from .measure import Row
from .report import DISTANCES, Report, from_json
from .words import plain, show_bytes, show_ms, show_points, show_times

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
P = 0.01
SAME_RUN, DISTURBED = 0.05, 1.0  # how far apart two runs of one file may lie: 1.05x and 2x
_DISTURBING = ("other-load", "steal")  # codes of doubts


@dataclass(frozen=True)
class Move:
    """One figure of one model, before and after: `verdict` is `better`, `worse` or `same`, or `unknown` with a reason.

    `figure` is `size`, `latency`, `memory` or a score's name; bytes, ms, bytes and the score's own unit. Only latencies
    have `p`, the probability of such rounds where nothing moved, and `noise`, the share that two runs may lie apart.
    """

    model: str
    figure: str
    before: float | None
    after: float | None
    verdict: str
    words: str
    p: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What moved from one report to another; `gone` and `new` are models that only one of them has."""

    before: str
    after: str
    moves: tuple[Move, ...]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """True where any figure is worse beyond noise."""
        return any(move.verdict == "worse" for move in self.moves)


def read_report(path: Path) -> Report:
    """The report in a `report.json`, or in the folder that holds one. Raises DataError."""
    path = path / "report.json" if path.is_dir() else path
    return read_text(path, from_json, "expected a report.json")


def compare(before: Report, after: Report) -> Comparison:
    """Match rows by name and format, and say for each figure whether it moved.

    Raises UsageError where no row of the one is in the other, or two rows of one are not to be told apart.

    >>> compare(read_report(Path("main")), read_report(Path("branch"))).worse
    False
    """
    old, new = _by_key(before), _by_key(after)
    if not old.keys() & new.keys():
        names = (", ".join(dict.fromkeys(name for name, _ in rows)) for rows in (old, new))
        raise UsageError(
            f"the reports have no model in common: {' and '.join(names)}; compare reports of the same ones"
        )
    formats = len({form for _, form in (*old, *new)}) > 1
    moves = [move for key, row in old.items() if key in new for move in _moves(_named(key, formats), row, new[key])]
    return Comparison(
        before.title,
        after.title,
        tuple(moves),
        gone=tuple(_named(key, formats) for key in old if key not in new),
        new=tuple(_named(key, formats) for key in new if key not in old),
        doubts=tuple(_doubts(before, after)),
    )


def mann_whitney(a: "np.ndarray | list[float]", b: "np.ndarray | list[float]") -> float:
    """The two-sided p of the U test: normal approximation with corrections for ties and continuity.

    U counts the pairs in which a's value is the larger one, half for equal ones. Without ties it has the mean nm/2 and
    the variance nm(n+m+1)/12; t equal values take nm(t³-t) / (12 (n+m) (n+m-1)) off the variance.

    >>> round(mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]), 4)
    0.0122
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    n, m = len(x), len(y)
    above = (x[:, None] > y).sum() + 0.5 * (x[:, None] == y).sum()
    _, ties = np.unique(np.concatenate([x, y]), return_counts=True)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(above - n * m / 2) - 0.5) / math.sqrt(variance)
    return min(1.0, 2 * (1 - NormalDist().cdf(z)))


def to_json(found: Comparison) -> str:
    """The comparison as JSON, names as in the code. NaN and infinities are written as strings."""
    raw = {"schema": SCHEMA, "worse": found.worse} | asdict(found)
    return json.dumps(plain(raw), ensure_ascii=False, allow_nan=False) + "\n"


def render(found: Comparison, console: "Console") -> None:
    """Print the comparison: a line for each figure, what moved in colour."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"{found.before}  →  {found.after}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column("model", overflow="fold")
    table.add_column("figure", overflow="fold")
    table.add_column("before → after", overflow="fold")
    table.add_column("", no_wrap=True)
    last = ""
    for move in found.moves:
        style = {"better": "green", "worse": "red"}.get(move.verdict, "dim")
        verdict = Text("" if move.verdict == "unknown" else move.verdict, style=style)
        table.add_row(Text("" if move.model == last else move.model), Text(move.figure), Text(move.words), verdict)
        last = move.model
    console.print(table)
    for title, names in (("no longer there", found.gone), ("new", found.new), ("doubts", found.doubts)):
        if names:
            console.print(Text(title, style="bold"))
            for name in names:
                console.print(Text(f"  {name}"))
    console.print(Text("worse beyond noise" if found.worse else "nothing is worse beyond noise", style="bold"))


def _by_key(report: Report) -> dict[tuple[str, str], Row]:
    found = {(row.name, row.format): row for row in report.rows}
    if len(found) < len(report.rows):
        twice = next(row.name for row in report.rows if found[row.name, row.format] is not row)
        raise UsageError(f"{report.title}: two models are named {twice}; compare reports whose models differ in name")
    return found


def _moves(model: str, old: Row, new: Row) -> Iterator[Move]:
    words = f"{show_bytes(old.bytes)} → {show_bytes(new.bytes)}"
    words += f", {show_times(new.bytes / old.bytes)}, {new.bytes - old.bytes:+,} B" if new.bytes != old.bytes else ""
    yield Move(model, "size", old.bytes, new.bytes, _verdict(new.bytes - old.bytes), words)
    yield _latency(model, old, new)
    yield from _memory(model, old, new)
    for name, before in (old.score or {}).items():
        if new.score and name in new.score:
            yield _score(model, name, before, new.score[name])
        else:
            yield Move(model, name, before, None, "unknown", "not judged any more")


def _latency(model: str, old: Row, new: Row) -> Move:
    reason = _incomparable(old.timing, new.timing)
    if reason or old.timing is None or new.timing is None:
        return Move(model, "latency", None, None, "unknown", reason)
    a, b = ([median(block) for block in timing.rounds] for timing in (old.timing, new.timing))
    before, after, p, noise = median(a), median(b), mann_whitney(a, b), _noise(old.timing, new.timing)
    ratio = after / before
    moved = p < P and not 1 / (1 + noise) <= ratio <= 1 + noise
    words = f"{show_ms(before)} → {show_ms(after)}, {show_times(ratio)}, noise {show_times(1 + noise)}, "
    words += "p < 0.001" if p < 0.001 else f"p {p:.3f}"
    return Move(model, "latency", before, after, _verdict(ratio - 1) if moved else "same", words, p, noise)


def _noise(*timings: Timing) -> float:
    """How far apart, as a share, the medians of these runs may lie without any news in it."""
    spread = max(timing.p90 / timing.p50 - 1 for timing in timings)
    disturbed = any(doubt.code in _DISTURBING for timing in timings for doubt in timing.doubts)
    return max(SAME_RUN, spread, DISTURBED if disturbed else 0.0)


def _memory(model: str, old: Row, new: Row) -> Iterator[Move]:
    before, after = (None if row.alone is None else row.alone.peak_memory for row in (old, new))
    if not before or not after or _incomparable(old.timing, new.timing):
        return
    moved = abs(after / before - 1) > SAME_MEMORY
    words = f"{show_bytes(before)} → {show_bytes(after)}, {show_times(after / before)}"
    yield Move(model, "memory", before, after, _verdict(after - before) if moved else "same", words)


def _score(model: str, name: str, before: float, after: float) -> Move:
    words = f"{before:.4f} → {after:.4f}"
    # a hair of rounding is no change, and NaN is worse than any number
    if math.isclose(before, after, abs_tol=1e-9) or (math.isnan(before) and math.isnan(after)):
        return Move(model, name, before, after, "same", words)
    if math.isnan(before) or math.isnan(after):
        return Move(model, name, before, after, "worse" if math.isnan(after) else "better", words)
    lost = after - before if name in DISTANCES else before - after
    words += "" if name in DISTANCES else f", {show_points(after - before)} points"
    return Move(model, name, before, after, _verdict(lost), words)


def _verdict(more: float) -> str:
    """Of a figure that is the better the less it is."""
    return "worse" if more > 0 else "better" if more < 0 else "same"


def _incomparable(old: Timing | None, new: Timing | None) -> str:
    """Why two latencies are not to be compared; nothing where they are."""
    if old is None or new is None:
        return "not measured" if old is new else f"not measured {'before' if old is None else 'after'}"
    pairs = {
        "different machines": [(m.arch, m.cpu, m.cores, m.ram_mb) for m in (old.machine, new.machine)],
        "different numbers of threads": [old.threads, new.threads],
        "different providers": [old.providers, new.providers],
        "inputs of different shapes": [sorted(timing.shapes.values()) for timing in (old, new)],
    }
    return next((f"not compared: {what}" for what, (a, b) in pairs.items() if a != b), "")


def _doubts(before: Report, after: Report) -> Iterator[str]:
    for when, report in (("before", before), ("after", after)):
        yield from dict.fromkeys(f"{when}: {doubt.text}" for row in report.rows for doubt in row.doubts)


def _named(key: tuple[str, str], formats: bool) -> str:
    name, form = key
    return f"{name} ({form})" if formats and not name.endswith(form) else name
