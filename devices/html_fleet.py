"""HTML of a fleet: the reports of several devices as one page; figures of two are never merged, nor divided.

First each device in a sentence, then one table of all, then what is of one device alone: doubts, charts, provenance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape

from . import html_parts as parts
from .beside import verdict
from .charts import Picture
from .html import shipped, summary
from .pictures import latency, placement, sustained, trade
from .report import Report, where
from .words import listed

_HINT = (
    "The model that ships, beside the baseline on the same device; bars run from 1x, as the baseline. Figures of "
    "different devices are not compared."
)
_TABLE_HINT = f"The baseline is the first model on the same device. {parts.TABLE_HINT}"
_FRONT = "The dashed line is the Pareto front; hollow marks are behind it."
_UNITS = "The share of the multiply-accumulates on each unit."
# What `verdict` says where nothing is wrong -> its colour.
_LOOKS = {"": "none", "emulated, not a measurement": "none", "fits": "good"}

# Lines by title, as `parts.told` gives them.
_Told = Mapping[str, Sequence[str]]


def to_html_list(reports: Sequence[Report]) -> str:
    """The reports of several devices as the text of one HTML file.

    >>> Path("reports.html").write_text(to_html_list(reports), encoding="utf-8")
    """
    model = next((report.ships for report in reports if report.ships), "Nothing measured")
    return parts.page(
        title=f"{model} on {len(reports)} devices" if len(reports) > 1 else f"{model} on 1 device",
        where=", ".join(dict.fromkeys(row.name for report in reports for row in report.rows)),
        summary=overview(reports),
        verdict=_verdict(reports),
        body=_sections(reports),
        beside="reports.json",
    )


def overview(reports: Sequence[Report]) -> str:
    """What became of the devices, in short sentences.

    >>> overview(reports)
    'Timed on local and kitchen. Not timed on pi5. Failed on cellar.'
    """
    found: dict[str, list[str]] = {"Timed": [], "Not timed": [], "Failed": []}
    for report in reports:
        timed = any(row.timing is not None for row in report.rows)
        found["Failed" if report.failure else "Timed" if timed else "Not timed"].append(report.device.name)
    return " ".join(f"{words} on {listed(names)}." for words, names in found.items() if names)


def _verdict(reports: Sequence[Report]) -> str:
    """Whether the budget holds on each device; one that failed holds none."""
    misses = [f"{report.device.name}: {miss}" for report in reports for miss in report.misses]
    failed = [f"{report.device.name}: failed" for report in reports if report.failure]
    over = misses or not failed  # where one failed, it is not known to be over the budget
    budget = next((report.budget for report in reports if report.budget and over), "")
    return parts.verdict(budget, [*misses, *failed], fits=not misses and not failed)


def _sections(reports: Sequence[Report]) -> Iterator[str]:
    numbered = list(enumerate(reports, 1))
    devices = "".join(_device(number, report) for number, report in numbered)
    yield parts.section("Device by device", _HINT, f'<div class="steps">{devices}</div>')
    measured = [(number, report) for number, report in numbered if report.rows]
    if not measured:
        return
    yield parts.section("All models on all devices", _TABLE_HINT, _table(reports))
    shared = _shared([parts.told(report) for _, report in measured])
    for title, lines in shared.items():
        yield parts.section(title, "The same on each device.", parts.items(lines, "list"))
    for number, report in measured:
        yield _alone(number, report, shared)


def _device(number: int, report: Report) -> str:
    """A device in a sentence: what ships beside the baseline there, or why there is nothing."""
    name, words = escape(report.device.name), "failed" if report.failure else verdict(report)
    head = f'<a href="#device-{number}">{name}</a>' if report.rows else name
    status = parts.mark(words, _LOOKS.get(words, "bad")) if words else ""
    moves = ""
    if report.rows and (row := shipped(report)) is not report.rows[0]:
        moves = parts.moves(row, report.rows[0], report.rows[0])
    told = f"<p>{escape(report.failure or summary(report))}</p>{moves}"
    return f'<div class="step"><div><h3>{head}</h3>{status}{parts.sub(_setting(report))}</div><div>{told}</div></div>'


def _setting(report: Report) -> str:
    """The device behind its name, and how the models were run on it."""
    return where(report).removeprefix(f"{report.device.name}: ")


def _table(reports: Sequence[Report]) -> str:
    groups = "".join(_group(report) for report in reports)
    return f"<table><thead><tr>{parts.head_line()}</tr></thead>{groups}</table>"


def _group(report: Report) -> str:
    """A device's lines of the table, below its name."""
    width = len(parts.HEADS)
    name = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{escape(report.device.name)}</th></tr>'
    lines = "".join(parts.table_line(report, row) for row in report.rows)
    failed = f'<tr class="failed"><td colspan="{width}">failed: {escape(report.failure)}</td></tr>'
    return f"<tbody>{name}{lines or failed}</tbody>"


def _shared(all_told: Sequence[_Told]) -> _Told:
    """What several devices tell alike, as the scores of a file: it is said once."""
    first, *others = all_told
    return {t: lines for t, lines in first.items() if others and all(told.get(t) == lines for told in others)}


def _alone(number: int, report: Report, shared: _Told) -> str:
    """All that is of one device alone."""
    own = {title: lines for title, lines in parts.told(report).items() if title not in shared}
    name = escape(report.device.name)
    found = [
        f'<h2>{name}</h2><p class="where">{escape(_setting(report))}</p>',
        parts.doubts(report, level=3),
        parts.charts(_pictures(report)),
        *(parts.section(title, "", parts.items(lines, "list"), level=3) for title, lines in own.items()),
        f'<details class="provenance"><summary>Provenance</summary>{parts.provenance(report)}</details>',
    ]
    return f'<section class="device" id="device-{number}">{"".join(found)}</section>'


def _pictures(report: Report) -> Iterator[Picture]:
    """The charts of what was timed; a file's size and score are the same on each device, and are not drawn."""
    if all(row.timing is None for row in report.rows):
        return
    yield from latency(report)
    yield from (replace(picture, words=_FRONT) for picture in trade(report)[-1:])
    yield from sustained(report)
    yield from (replace(picture, words=_UNITS) for picture in placement(report))
