"""HTML: the report as one page that works from disk: no script, no request, nothing beside it."""

from collections.abc import Iterator
from html import escape

from . import html_parts as parts
from .budget import SAME_SPEED
from .measure import Row
from .pictures import latency, placement, ships, sustained, trade
from .report import NONE, Report, cells, where
from .words import show_bytes, show_ms, show_points, show_times


def to_html(report: Report) -> str:
    """The report as the text of one HTML file.

    >>> Path("report.html").write_text(to_html(report), encoding="utf-8")
    """
    return parts.page(
        title=report.title,
        where=where(report),
        summary=summary(report),
        verdict=parts.verdict(report.budget, report.misses, fits=report.fits),
        body=_sections(report),
        beside="report.json",
    )


def summary(report: Report) -> str:
    """The report in a sentence.

    >>> summary(report)
    'digits-int8 takes 98 kB, 0.31x of digits-fp32, and is 1.83x as fast (0.148 ms); top1 is 0.9907, -0.19 points.'
    """
    if not report.rows:
        return "Nothing was measured."
    base, row = report.rows[0], shipped(report)
    p50 = "" if row.timing is None else show_ms(row.timing.p50)
    if row is base:
        lead = "No pass paid: the model ships as it came. It" if len(report.rows) > 1 and report.ships else row.name
        return f"{lead} takes {show_bytes(row.bytes)}{p50 and f' and {p50} a run'}.{_score_clause(row, base)}"
    size = f"{row.name} takes {show_bytes(row.bytes)}, {show_times(row.bytes / base.bytes)} of {base.name}"
    ratio = parts.times(row, base)
    if ratio is None:
        pace = f"; its latency was not measured on {report.device.name}" if row.timing is None else ""
    elif ratio[1] > 1 + SAME_SPEED:
        pace = f", and is {show_times(ratio[0])} as fast ({p50})"
    elif ratio[2] < 1 - SAME_SPEED:
        pace = f", and is {show_times(1 / ratio[0])} slower ({p50})"
    else:
        pace = f", and is as fast within noise ({p50})"
    return f"{size}{pace}.{_score_clause(row, base)}"


def shipped(report: Report) -> Row:
    """The row that a page speaks of: the one that ships, the family's first member, or the last."""
    found = [row for row in report.rows if ships(report, row)]
    return found[0] if found else [row for row in report.rows if row.kept][-1]


def _sections(report: Report) -> Iterator[str]:
    if not report.rows:
        return
    yield _tiles(report)
    yield _table(report)
    yield parts.doubts(report)
    yield _steps(report)
    hint = "The dashed line is the Pareto front: nothing beats a model on it on both axes. Hollow marks are behind it."
    yield parts.section("Size, latency, score", hint, parts.charts(trade(report)))
    yield parts.section("Latency", "", parts.charts(latency(report)))
    hint = "What the latency became without a pause between runs."
    yield parts.section("Sustained", hint, parts.charts(sustained(report)))
    hint = "The share of the multiply-accumulates on each unit."
    yield parts.section("Where it runs", hint, parts.charts(placement(report)))
    for title, lines in parts.told(report).items():
        yield parts.section(title, "", parts.items(lines, "list"))
    yield parts.section("Provenance", "", parts.provenance(report))


def _score_clause(row: Row, base: Row) -> str:
    if not row.score:
        return ""
    name, value = next(iter(row.score.items()))
    known = row is not base and base.score and name in base.score
    points = f", {show_points(value - base.score[name])} points" if known and base.score else ""
    return f" {name} is {value:.4f}{points}."


def _tiles(report: Report) -> str:
    """The figures of what ships, large, each with the baseline's."""
    base, row = report.rows[0], shipped(report)
    now, was = cells(row, base), cells(base, base)
    score = next(iter(row.score), "score") if row.score else "score"
    tiles = [
        ("size", now.size, was.size, now.size_times),
        ("latency, median", now.p50, was.p50, f"{now.speed} as fast" if now.speed != NONE else ""),
        (score, now.score, was.score, f"{now.points} points" if now.points else ""),
        ("peak memory", now.memory, was.memory, ""),
    ]
    found = []
    for name, figure, before, note in tiles:
        words = "" if row is base else " · ".join(w for w in (f"was {before}" if before != NONE else "", note) if w)
        found.append(
            f'<div class="tile"><p class="name">{escape(name)}</p><p class="figure">{escape(figure)}</p>'
            f'<p class="sub">{escape(words)}</p></div>'
        )
    return f'<div class="tiles">{"".join(found)}</div>'


def _table(report: Report) -> str:
    lines = "".join(parts.table_line(report, row) for row in report.rows)
    table = f"<table><thead><tr>{parts.head_line()}</tr></thead><tbody>{lines}</tbody></table>"
    return parts.section("All models", parts.TABLE_HINT, table)


def _steps(report: Report) -> str:
    """What each pass cost and gained, beside what was kept before it."""
    before, found = report.rows[0], []
    for row in report.rows[1:]:
        if row.why:
            found.append(_step(report, row, before))
            before = row if row.kept else before
    for name in report.idle:
        found.append(f'<div class="step"><div><h3>{escape(name)}</h3>{parts.mark("nothing to do", "none")}</div></div>')
    hint = "Each beside what was kept before it. Bars run from 1x, as before, on a scale of ratios; the line on a bar "
    hint += "spans the quartiles. What does not pay is undone."
    steps = f'<div class="steps">{"".join(found)}</div>' if found else ""
    return parts.section("What each pass cost and gained", hint, steps)


def _step(report: Report, row: Row, before: Row) -> str:
    base = report.rows[0]
    head = f"<div><h3>{escape(row.name)}</h3>{parts.chip(cells(row, base))}</div>"
    return f'<div class="step">{head}{parts.moves(row, before, base)}<p class="why">{escape(row.why)}</p></div>'
