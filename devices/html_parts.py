"""HTML parts: what the pages of reports are made of: the page itself, sections, charts, table lines, provenance.

All is put together from strings, so each text that came from outside (names, verdicts, doubts) goes through `escape`; a
content policy forbids whatever would slip through: scripts, pictures, any style but the page's own.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib import metadata, resources
from string import Template

from ..runtime.errors import UsageError
from .budget import SAME_MEMORY, SAME_SIZE
from .charts import Picture, change
from .measure import Row, speed
from .pictures import look
from .provenance import models, setting
from .report import Cells, Report, cells, sections
from .words import show_times

HEADS = ("model", "size", "p50", "p99", "speed", "load", "cold start", "memory", "score")
TABLE_HINT = (
    "Speed is the baseline's median over the model's, round by round, with its quartiles; only models that were "
    "timed in one run have one. Memory is that of the whole process, with what runs the model (Python, the engine)."
)
# Titles of `sections` whose content has a place of its own on a page.
_PLACED = ("ships:", "fits", "over", "steps", "where", "doubts")


def page(*, title: str, where: str, summary: str, verdict: str, body: Iterable[str], beside: str) -> str:
    """A whole page; `verdict` and `body` are HTML, the others text. `beside` is the file with the raw samples."""
    style = _file("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return Template(_file("report.html")).substitute(
        hash=f"sha256-{digest}",
        style=style,
        title=escape(title),
        where=escape(where),
        summary=escape(summary),
        verdict=verdict,
        sections="\n".join(part for part in body if part),
        version=escape(metadata.version("edgepress")),
        beside=escape(beside),
    )


def section(title: str, hint: str, body: str, *, level: int = 2) -> str:
    """A section with its heading; "" where there is nothing in it."""
    words = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<section><h{level}>{escape(title)}</h{level}>{words}{body}</section>" if body else ""


def charts(pictures: Iterable[Picture]) -> str:
    """Drawings, two beside each other where there is room; "" without any."""
    drawn = "".join(
        f"<figure>{picture.svg}<figcaption>{escape(picture.words)}</figcaption></figure>" for picture in pictures
    )
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def doubts(report: Report, *, level: int = 2) -> str:
    """What speaks against the figures; "" where nothing does."""
    found = dict(sections(report)).get("doubts", [])
    heading = f"<h{level}>Read with care</h{level}>"
    return f'<aside class="doubts">{heading}{items(found, "")}</aside>' if found else ""


def told(report: Report) -> dict[str, list[str]]:
    """What the report says in words and has no other place: lines by title."""
    several = any(len(row.score or ()) > 1 for row in report.rows)  # one alone stands in the table
    return {
        f"{title[:1].upper()}{title[1:]}": lines
        for title, lines in sections(report)
        if lines and title.split()[0] not in _PLACED and (title != "scores" or several)
    }


def provenance(report: Report) -> str:
    """The device, the machine, and of each model its file and history, folded."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in setting(report))
    parts = []
    for row, lines in models(report):
        told = "".join(f"<dt>{escape(n)}</dt><dd>{_code(n, value)}</dd>" for n, value in lines)
        parts.append(f"<details><summary>{escape(row.name)}</summary><dl>{told}</dl></details>")
    return f'<dl>{facts}</dl><div class="models">{"".join(parts)}</div>'


def head_line() -> str:
    """The table's first line."""
    return "".join(f'<th scope="col">{head}</th>' for head in HEADS)


def table_line(report: Report, row: Row) -> str:
    """A row's line of the table, as `HEADS` name the columns, beside the first row of its report."""
    c = cells(row, report.rows[0])
    pairs = ((c.size, c.size_times), (c.p50, ""), (c.p99, ""), (c.speed, c.spread), (c.load, ""), (c.cold, ""),
             (c.memory, ""), (c.score, c.points))  # fmt: skip
    figures = "".join(
        f'<td data-name="{head}">{escape(figure)}{sub(below)}</td>'
        for head, (figure, below) in zip(HEADS[1:], pairs, strict=True)
    )
    name = f'<span class="key"></span><span class="model">{escape(row.name)}</span>{chip(c)}'
    return f'<tr class="{look(report, row)}"><td>{name}</td>{figures}</tr>'


def moves(row: Row, before: Row, base: Row) -> str:
    """A row's size, latency, memory and first score beside another's: a bar for each ratio, and the figure."""
    now, size = cells(row, base), row.bytes / before.bytes
    found = [_move("size", (size, size, size), now.size)]
    ratio = times(before, row)
    if ratio is not None:
        found.append(_move("latency", ratio, now.p50))
    memory, was = _memory(row), _memory(before)
    if memory and was:
        found.append(_move("memory", (memory / was, memory / was, memory / was), now.memory, SAME_MEMORY))
    if row.score:
        points = cells(row, before).points
        words = f"{points} points · {now.score}" if points else now.score
        name = escape(next(iter(row.score)))
        found.append(f'<span class="name">{name}</span><span></span><span>{escape(words)}</span>')
    return f'<div class="moves">{"".join(found)}</div>'


def times(row: Row, other: Row) -> tuple[float, float, float] | None:
    """How many times as fast `row` is as `other`, with quartiles; None where the two were not timed in one run."""
    if row.timing is None or other.timing is None:
        return None
    try:
        ratio = speed(row.timing, other.timing)
    except UsageError:  # another run, other shapes
        return None
    return ratio.median, ratio.low, ratio.high


def chip(c: Cells) -> str:
    """The verdict on the step that made a row; "" where none was judged."""
    return mark(c.status, {"kept": "good", "undone": "bad"}.get(c.status, "none")) if c.status else ""


def mark(words: str, look: str) -> str:
    """A verdict in its colour: `good`, `bad` or `none`."""
    return f'<span class="sub"><span class="chip {look}">{escape(words)}</span></span>'


def sub(words: str) -> str:
    """What stands small below a figure."""
    return f'<span class="sub">{escape(words)}</span>' if words else ""


def items(lines: Iterable[str], look: str) -> str:
    """A list."""
    return f'<ul class="{look}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def verdict(budget: str, misses: Sequence[str], *, fits: bool) -> str:
    """Whether the budget holds, and what is missed; "" where there was none to hold."""
    if not budget and fits:
        return ""
    if fits:
        return f'<p class="verdict good">✓ fits the budget {escape(budget)}</p>'
    over = f"over the budget {budget}" if budget else "does not pass"
    return f'<p class="verdict bad">✗ {escape(over)}</p>{items(misses, "misses")}'


def _move(name: str, ratio: tuple[float, float, float], figure: str, same: float = SAME_SIZE) -> str:
    words = f"{show_times(ratio[0])} · {figure}"
    return f'<span class="name">{name}</span>{change(*ratio, same)}<span>{escape(words)}</span>'


def _memory(row: Row) -> int | None:
    return None if row.alone is None else row.alone.peak_memory


def _code(name: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if name in ("file", "sha256") else escape(value)


@cache
def _file(name: str) -> str:
    return (resources.files("edgepress.devices") / "page" / name).read_text(encoding="utf-8")
