"""Reports of several devices side by side, a row a device: figures of two are never merged, nor divided."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.files import refuse_lost, write_text
from .report import NONE, SCHEMA, Report, render, to_json, to_markdown
from .report import speed_words as _speed
from .words import in_markdown, markdown_line, show_ms

if TYPE_CHECKING:
    from rich.console import Console

FILES = ("reports.json", "reports.md", "reports.html")  # what `save_all` writes
_LEGEND = "p50, and the speed beside the baseline on the same device; figures of different devices are not compared."


def to_json_list(reports: Sequence[Report]) -> str:
    """All reports with every raw sample, in one object: schema, fits, reports."""
    inner = ", ".join(to_json(report).strip() for report in reports)
    fits = json.dumps(all(report.fits for report in reports))
    return f'{{"schema": {SCHEMA}, "fits": {fits}, "reports": [{inner}]}}\n'


def save_all(reports: Sequence[Report], folder: Path) -> None:
    """Write `reports.json`, `reports.md` and `reports.html` into a folder; each appears whole or not at all."""
    from .html_fleet import to_html_list

    texts = (to_json_list(reports), to_markdown_list(reports), to_html_list(reports))
    for name, text in zip(FILES, texts, strict=True):
        write_text(folder / name, text)


def refuse_foreign_list(folder: Path) -> None:
    """Raise UsageError where a file of these names lies in the folder that `save_all` did not write."""
    refuse_lost(folder, FILES, "a report of edgepress")


def to_markdown_list(reports: Sequence[Report]) -> str:
    """The table of all, and each report below it."""
    heads, lines = _table(reports)
    table = [markdown_line(heads), markdown_line(["---"] * len(heads))]
    table += [markdown_line([in_markdown(cell.replace("\n", ", ")) for cell in line]) for line in lines]
    return "\n".join([*table, "", _LEGEND, "", *(to_markdown(report) for report in reports)])


def render_all(reports: Sequence[Report], console: "Console") -> None:
    """Print each report, and the table of all at the end, where it is read first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for report in reports:
        render(report, console)
        console.print()
    heads, lines = _table(reports)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(Text(head), overflow="fold", justify="left" if index in (0, len(heads) - 1) else "right")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
    console.print(Text(_LEGEND, style="dim"))


def _table(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: a column for each model, and the verdict."""
    names = list(dict.fromkeys(row.name for report in reports for row in report.rows))
    return ["device", *names, ""], [_line(report, names) for report in reports]


def _line(report: Report, names: Sequence[str]) -> list[str]:
    cells = dict.fromkeys(names, NONE)
    for row in report.rows:
        times, _ = _speed(row, report.rows[0])
        if row.timing is not None:
            cells[row.name] = f"{show_ms(row.timing.p50)}\n{times}"
    return [report.device.name, *cells.values(), verdict(report)]


def verdict(report: Report) -> str:
    """What became of a device in a few words; "" where there was nothing to hold it to."""
    if report.failure:
        return f"failed: {report.failure}"
    if wrong := [row.name for row in report.rows if row.selftest is not None and not row.selftest.passed]:
        return f"other outputs than the golden ones: {', '.join(wrong)}"
    if report.device.emulated:
        return "emulated, not a measurement"
    return ("fits" if report.fits else "over the budget") if report.budget else ""
