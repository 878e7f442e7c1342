"""Pictures: which charts a report has: a row without the figures is left out, a chart without two rows is not drawn."""

import math
from collections.abc import Mapping
from statistics import median

from .charts import Picture, Point, Scale, Series, bars, curves, distributions, scatter
from .measure import Row
from .report import Report
from .units import whole
from .words import show_bytes, show_ms

_SIZE = Scale("size on disk", lambda x: show_bytes(round(x)))
_TIME = Scale("latency, median", show_ms)


def trade(report: Report) -> list[Picture]:
    """Score over size and over latency; latency over size where fewer than two rows have a score."""
    name, scores = _scores(report)
    sizes = {row.name: float(row.bytes) for row in report.rows}
    times = {row.name: row.timing.p50 for row in report.rows if row.timing is not None}
    score = Scale(name, lambda x: f"{x:.4g}", less=False)
    pairs = [(sizes, _SIZE, scores, score), (times, _TIME, scores, score)]
    if len(scores) < 2:
        pairs = [(sizes, _SIZE, times, _TIME)]
    found = [(_points(report, xs, x, ys, y), x, y) for xs, x, ys, y in pairs]
    return [Picture(scatter(points, x, y)) for points, x, y in found if len(points) > 1]


def latency(report: Report) -> list[Picture]:
    """Where the latencies lie, and how they went through the run, round by round."""
    timed = [(row, row.timing) for row in report.rows if row.timing is not None]
    if not timed:
        return []
    samples = [Series(row.name, look(report, row), tuple((0.0, ms) for ms in t.samples)) for row, t in timed]
    found = [Picture(distributions(samples), "Every run: the density, the box of the quartiles, the median.")]
    medians = [
        Series(row.name, look(report, row), tuple((float(i), median(block)) for i, block in enumerate(t.rounds, 1)))
        for row, t in timed
    ]
    if min(len(series.points) for series in medians) > 1:
        drawn = curves(medians, "round", lambda x: f"{x:.0f}", "latency, median of the round", show_ms)
        found.append(Picture(drawn, "Round by round: a machine that slows down, or is disturbed, shows here."))
    return found


def sustained(report: Report) -> list[Picture]:
    """How the latency went through the minutes of a sustained run, and how warm the processor became."""
    seen = [(row, row.timing.sustained) for row in report.rows if row.timing is not None and row.timing.sustained]
    found = []
    for up, words, of, told in (
        ("latency, median of the second", show_ms, lambda m: m.p50, "Second by second, without a pause."),
        ("temperature", lambda x: f"{x:.0f} °C", lambda m: m.temperature_c, "The hottest sensor of the processor."),
        ("frequency", lambda x: f"{x:.0f} MHz", lambda m: m.frequency_mhz, "The fastest core."),
    ):
        lines = [
            Series(row.name, look(report, row), tuple((m.at, of(m)) for m in s.curve if of(m) is not None))
            for row, s in seen
        ]
        lines = [line for line in lines if len(line.points) > 1]
        if lines:
            found.append(Picture(curves(lines, "second", lambda x: f"{x:.0f}", up, words), told))
    return found


def placement(report: Report) -> list[Picture]:
    """Where the work of each model runs: of the rows whose engine told it."""
    placed = [(row.name, dict(whole(row.placement))) for row in report.rows if row.placement]
    return [Picture(bars(placed))] if placed else []


def look(report: Report, row: Row) -> str:
    """The class of a row's marks, by what it is in the report: base, ships, kept, undone; other where none judged."""
    if row is report.rows[0]:
        return "base"
    if not row.kept:
        return "undone"
    if ships(report, row):
        return "ships"
    return "kept" if row.why else "other"


def ships(report: Report, row: Row) -> bool:
    """True for the row that ships, and for each of the family that does."""
    return bool(report.ships) and (row.name == report.ships or row.name.startswith(f"{report.ships}/"))


def _scores(report: Report) -> tuple[str, dict[str, float]]:
    """The first score's name, and the rows that have it as a number."""
    name = next((next(iter(row.score)) for row in report.rows if row.score), "")
    scores = {row.name: row.score[name] for row in report.rows if row.score and name in row.score}
    return name, {key: value for key, value in scores.items() if math.isfinite(value)}


def _points(report: Report, xs: Mapping[str, float], across: Scale, ys: Mapping[str, float], up: Scale) -> list[Point]:
    found = []
    for row in report.rows:
        if row.name in xs and row.name in ys:
            x, y = xs[row.name], ys[row.name]
            told = f"{row.name}: {across.title} {across.words(x)}, {up.title} {up.words(y)}"
            found.append(Point(row.name, x, y, look(report, row), told))
    return found
