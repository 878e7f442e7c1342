"""HTML: the report as one page that works from disk: no script, no request, nothing beside it.

The page is put together from strings, so each text that came from outside (names, verdicts, doubts) goes through
`escape`; a content policy forbids whatever would slip through: scripts, pictures, any style but the page's own.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from importlib import metadata, resources
from string import Template

from ..runtime.errors import UsageError
from .budget import SAME_MEMORY, SAME_SIZE, SAME_SPEED
from .charts import Picture, change
from .measure import Row, speed
from .pictures import latency, look, placement, ships, sustained, trade
from .provenance import models, setting
from .report import NONE, Cells, Report, cells, sections, where
from .words import show_bytes, show_ms, show_points, show_times

# Titles of `sections` whose content has a place of its own on the page.
_PLACED = ("ships:", "fits", "over", "steps", "where", "doubts")


def to_html(report: Report) -> str:
    """The report as the text of one HTML file.

    >>> Path("report.html").write_text(to_html(report), encoding="utf-8")
    """
    style = _page("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(_page("report.html")).substitute(
        hash=f"sha256-{digest}",
        style=style,
        title=escape(report.title),
        where=escape(where(report)),
        summary=escape(summary(report)),
        budget=_budget(report),
        sections="\n".join(part for part in _sections(report) if part),
        version=escape(metadata.version("edgepress")),
    )


def summary(report: Report) -> str:
    """The report in a sentence.

    >>> summary(report)
    'digits-int8 takes 98 kB, 0.31x of digits-fp32, and is 1.83x as fast (0.148 ms); top1 is 0.9907, -0.19 points.'
    """
    if not report.rows:
        return "Nothing was measured."
    base, row = report.rows[0], _shipped(report)
    p50 = "" if row.timing is None else show_ms(row.timing.p50)
    if row is base:
        lead = "No pass paid: the model ships as it came. It" if len(report.rows) > 1 and report.ships else row.name
        return f"{lead} takes {show_bytes(row.bytes)}{p50 and f' and {p50} a run'}.{_score_clause(row, base)}"
    size = f"{row.name} takes {show_bytes(row.bytes)}, {show_times(row.bytes / base.bytes)} of {base.name}"
    ratio = _speed(row, base)
    if ratio is None:
        pace = f"; its latency was not measured on {report.device.name}" if row.timing is None else ""
    elif ratio[1] > 1 + SAME_SPEED:
        pace = f", and is {show_times(ratio[0])} as fast ({p50})"
    elif ratio[2] < 1 - SAME_SPEED:
        pace = f", and is {show_times(1 / ratio[0])} slower ({p50})"
    else:
        pace = f", and is as fast within noise ({p50})"
    return f"{size}{pace}.{_score_clause(row, base)}"


def _sections(report: Report) -> Iterator[str]:
    if not report.rows:
        return
    yield _tiles(report)
    yield _table(report)
    yield _doubts(report)
    yield _steps(report)
    hint = "The dashed line is the Pareto front: nothing beats a model on it on both axes. Hollow marks are behind it."
    yield _charts("Size, latency, score", hint, trade(report))
    yield _charts("Latency", "", latency(report))
    yield _charts("Sustained", "What the latency became without a pause between runs.", sustained(report))
    yield _charts("Where it runs", "The share of the multiply-accumulates on each unit.", placement(report))
    yield _told(report)
    yield _provenance(report)


def _shipped(report: Report) -> Row:
    """The row that the page speaks of: the one that ships, the family's first member, or the last."""
    shipped = [row for row in report.rows if ships(report, row)]
    return shipped[0] if shipped else [row for row in report.rows if row.kept][-1]


def _score_clause(row: Row, base: Row) -> str:
    if not row.score:
        return ""
    name, value = next(iter(row.score.items()))
    known = row is not base and base.score and name in base.score
    points = f", {show_points(value - base.score[name])} points" if known and base.score else ""
    return f" {name} is {value:.4f}{points}."


def _budget(report: Report) -> str:
    if not report.budget and report.fits:
        return ""
    if report.fits:
        return f'<p class="verdict good">✓ fits the budget {escape(report.budget)}</p>'
    over = f"over the budget {report.budget}" if report.budget else "does not pass"
    misses = "".join(f"<li>{escape(miss)}</li>" for miss in report.misses)
    return f'<p class="verdict bad">✗ {escape(over)}</p><ul class="misses">{misses}</ul>'


def _tiles(report: Report) -> str:
    """The figures of what ships, large, each with the baseline's."""
    base, row = report.rows[0], _shipped(report)
    now, was = cells(row, base), cells(base, base)
    score = next(iter(row.score), "score") if row.score else "score"
    tiles = [
        ("size", now.size, was.size, now.size_times),
        ("latency, median", now.p50, was.p50, f"{now.speed} as fast" if now.speed != NONE else ""),
        (score, now.score, was.score, f"{now.points} points" if now.points else ""),
        ("peak memory", now.memory, was.memory, ""),
    ]
    parts = []
    for name, figure, before, note in tiles:
        words = "" if row is base else " · ".join(w for w in (f"was {before}" if before != NONE else "", note) if w)
        parts.append(
            f'<div class="tile"><p class="name">{escape(name)}</p><p class="figure">{escape(figure)}</p>'
            f'<p class="sub">{escape(words)}</p></div>'
        )
    return f'<div class="tiles">{"".join(parts)}</div>'


def _table(report: Report) -> str:
    heads = ("size", "p50", "p99", "speed", "load", "cold start", "memory", "score")
    top = "".join(f'<th scope="col">{head}</th>' for head in ("model", *heads))
    lines = []
    for row in report.rows:
        c = cells(row, report.rows[0])
        pairs = ((c.size, c.size_times), (c.p50, ""), (c.p99, ""), (c.speed, c.spread), (c.load, ""), (c.cold, ""),
                 (c.memory, ""), (c.score, c.points))  # fmt: skip
        figures = "".join(
            f'<td data-name="{head}">{escape(figure)}{_sub(below)}</td>'
            for head, (figure, below) in zip(heads, pairs, strict=True)
        )
        name = f'<span class="key"></span><span class="model">{escape(row.name)}</span>{_chip(c)}'
        lines.append(f'<tr class="{look(report, row)}"><td>{name}</td>{figures}</tr>')
    hint = (
        "Speed is the baseline's median over the model's, round by round, with its quartiles; only models that were "
        "timed in one run have one. Memory is that of the whole process, with what runs the model (Python, the engine)."
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return _section("All models", hint, table)


def _doubts(report: Report) -> str:
    doubts = dict(sections(report)).get("doubts", [])
    if not doubts:
        return ""
    return f'<aside class="doubts"><h2>Read with care</h2>{_list(doubts, "")}</aside>'


def _steps(report: Report) -> str:
    """What each pass cost and gained, beside what was kept before it."""
    before, parts = report.rows[0], []
    for row in report.rows[1:]:
        if row.why:
            parts.append(_step(report, row, before))
            before = row if row.kept else before
    for name in report.idle:
        parts.append(f'<div class="step"><div><h3>{escape(name)}</h3>{_mark("nothing to do", "none")}</div></div>')
    hint = "Each beside what was kept before it. Bars run from 1x, as before, on a scale of ratios; the line on a bar "
    hint += "spans the quartiles. What does not pay is undone."
    return _section("What each pass cost and gained", hint, f'<div class="steps">{"".join(parts)}</div>', bool(parts))


def _step(report: Report, row: Row, before: Row) -> str:
    now, size = cells(row, report.rows[0]), row.bytes / before.bytes
    moves = [_move("size", (size, size, size), now.size)]
    ratio = _speed(before, row)
    if ratio is not None:
        moves.append(_move("latency", ratio, now.p50))
    memory, was = _memory(row), _memory(before)
    if memory and was:
        moves.append(_move("memory", (memory / was, memory / was, memory / was), now.memory, SAME_MEMORY))
    if row.score:
        points = cells(row, before).points
        words = f"{points} points · {now.score}" if points else now.score
        name = escape(next(iter(row.score)))
        moves.append(f'<span class="name">{name}</span><span></span><span>{escape(words)}</span>')
    head = f"<div><h3>{escape(row.name)}</h3>{_chip(now)}</div>"
    why = f'<p class="why">{escape(row.why)}</p>'
    return f'<div class="step">{head}<div class="moves">{"".join(moves)}</div>{why}</div>'


def _move(name: str, ratio: tuple[float, float, float], figure: str, same: float = SAME_SIZE) -> str:
    words = f"{show_times(ratio[0])} · {figure}"
    return f'<span class="name">{name}</span>{change(*ratio, same)}<span>{escape(words)}</span>'


def _memory(row: Row) -> int | None:
    return None if row.alone is None else row.alone.peak_memory


def _speed(row: Row, other: Row) -> tuple[float, float, float] | None:
    """How many times as fast `row` is as `other`, with quartiles; None where the two were not timed in one run."""
    if row.timing is None or other.timing is None:
        return None
    try:
        ratio = speed(row.timing, other.timing)
    except UsageError:  # another run, other shapes
        return None
    return ratio.median, ratio.low, ratio.high


def _told(report: Report) -> str:
    """What the report says in words and has no other place."""
    several = any(len(row.score or ()) > 1 for row in report.rows)  # one alone stands in the table
    parts = [
        _section(title[:1].upper() + title[1:], "", _list(items, "list"))
        for title, items in sections(report)
        if items and title.split()[0] not in _PLACED and (title != "scores" or several)
    ]
    return "\n".join(parts)


def _provenance(report: Report) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in setting(report))
    parts = []
    for row, lines in models(report):
        told = "".join(f"<dt>{escape(n)}</dt><dd>{_code(n, value)}</dd>" for n, value in lines)
        parts.append(f"<details><summary>{escape(row.name)}</summary><dl>{told}</dl></details>")
    return _section("Provenance", "", f'<dl>{facts}</dl><div class="models">{"".join(parts)}</div>')


def _chip(c: Cells) -> str:
    return _mark(c.status, {"kept": "good", "undone": "bad"}.get(c.status, "none")) if c.status else ""


def _mark(words: str, look: str) -> str:
    return f'<span class="sub"><span class="chip {look}">{escape(words)}</span></span>'


def _sub(words: str) -> str:
    return f'<span class="sub">{escape(words)}</span>' if words else ""


def _list(items: Iterable[str], look: str) -> str:
    return f'<ul class="{look}">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def _charts(title: str, hint: str, pictures: Sequence[Picture]) -> str:
    drawn = "".join(
        f"<figure>{picture.svg}<figcaption>{escape(picture.words)}</figcaption></figure>" for picture in pictures
    )
    return _section(title, hint, f'<div class="charts">{drawn}</div>', bool(pictures))


def _code(name: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if name in ("file", "sha256") else escape(value)


def _section(title: str, hint: str, body: str, there: bool = True) -> str:
    words = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<section><h2>{escape(title)}</h2>{words}{body}</section>" if there else ""


@cache
def _page(name: str) -> str:
    return (resources.files("edgepress.devices") / "page" / name).read_text(encoding="utf-8")
