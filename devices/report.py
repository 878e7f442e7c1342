"""Report: the rows beside their baseline: for the terminal, as markdown, as JSON; as HTML see `html`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..runtime.artifact import Step
from ..runtime.errors import DataError, UsageError
from ..runtime.files import refuse_lost, write_text
from ..runtime.golden import SelfTest
from ..runtime.machine import Doubt
from ..runtime.timing import read_language, read_timing
from .device import Device
from .lasting import show_sustained
from .measure import Alone, Row, speed
from .repeat import show_repeats
from .sweep import Tried, show_tried
from .units import show_elsewhere
from .words import in_markdown, markdown_line, plain, show_bytes, show_ms, show_points, show_threads, show_times

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SCHEMA = 1
FILES = ("report.json", "report.md", "report.html")  # what `save` writes
# Scores that are no shares, the less the better.
DISTANCES = ("kl", "perplexity")
NONE = "—"  # not measured, or not comparable
LEGEND = (
    "speed: the baseline's p50 over the row's, round by round, where both were timed in one run. "
    "peak memory: the whole process, with what runs the model (Python, the engine)."
)


@dataclass(frozen=True)
class Report:
    """What a model costs on a device: the first row is the baseline. `budget` and `misses` are in words.

    `ships` is the name of the row that ships, or of the family whose members' rows do; `misses` what it misses of the
    budget; `idle` are the passes that found nothing to do; `failure` says why there are no rows of this device.
    """

    title: str
    device: Device
    rows: tuple[Row, ...]
    budget: str = ""
    misses: tuple[str, ...] = ()
    ships: str = ""
    idle: tuple[str, ...] = ()
    failure: str = ""

    @property
    def fits(self) -> bool:
        """True where the device was measured, and nothing of the budget is missed."""
        return not self.misses and not self.failure


@dataclass(frozen=True)
class Cells:
    """One row in words; `times` compare with the baseline, NONE where a figure is missing."""

    name: str
    size: str
    size_times: str
    p50: str
    p99: str
    speed: str
    spread: str
    load: str
    cold: str
    memory: str
    score: str
    points: str
    status: str


def to_json(report: Report) -> str:
    """The report with every raw sample, names as in the code. NaN and infinities are written as strings."""
    raw = {"schema": SCHEMA, "fits": report.fits} | asdict(report)
    return json.dumps(plain(raw), ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Report:
    """Read what `to_json` wrote. Raises DataError where it is damaged or from a newer version."""
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise DataError(f"the report has schema {raw['schema']}, this edgepress reads {SCHEMA}; upgrade it")
        device: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["device"].items()}
        rows = tuple(_row(row) for row in raw["rows"])
        words = {key: tuple(raw[key]) for key in ("misses", "idle")}
        return Report(raw["title"], Device(**device), rows, raw["budget"], ships=raw["ships"],
                      failure=raw.get("failure", ""), **words)  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"this is no report of edgepress ({error!r}); expected a report.json") from error


def save(report: Report, folder: Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into a folder; each appears whole or not at all."""
    from .html import to_html

    for name, text in zip(FILES, (to_json(report), to_markdown(report), to_html(report)), strict=True):
        write_text(folder / name, text)


def refuse_foreign(folder: Path) -> None:
    """Raise UsageError where a file lies in the folder that `save` would replace and did not write."""
    refuse_lost(folder, FILES, "a report of edgepress")


def to_markdown(report: Report) -> str:
    """The report as a markdown document: a table, the verdicts and the doubts."""
    head = ["model", "size", "x", "p50", "p99", "speed", "quartiles", "load", "cold start", "peak memory", "score",
            "points", ""]  # fmt: skip
    table = [list(vars(cells(row, report.rows[0])).values()) for row in report.rows]
    lines = [f"# {report.title}", "", where(report), ""]
    if report.failure:
        return "\n".join([*lines, f"**failed** {in_markdown(report.failure)}"]) + "\n"
    lines += [markdown_line(head), markdown_line(["---", *["---:"] * (len(head) - 2), "---"])]
    lines += [*(markdown_line(line) for line in table), "", LEGEND]
    for title, items in sections(report):
        lines += ["", f"**{title}**", "", *(f"- {in_markdown(item)}" for item in items)]
    return "\n".join(lines) + "\n"


def render(report: Report, console: "Console") -> None:
    """Print the report: two lines a row, so that it fits into 80 columns."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Text(report.title, style="bold"))
    console.print(Text(where(report), style="dim"))
    if report.failure:
        console.print(Text.assemble(("failed ", "red"), report.failure))
        return
    console.print(_table(report))
    console.print(Text(LEGEND, style="dim"))
    for title, items in sections(report):
        style = {"fits": "green", "over": "red"}.get(title.split()[0], "bold")
        console.print(Text(title, style=style))
        for item in items:
            console.print(Padding(Text(item), (0, 0, 0, 2)))


def _table(report: Report) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column("model\nverdict", overflow="fold", min_width=8)
    for head in ("size\nx", "p50\np99", "speed\nquartiles", "load\ncold", "peak\nmemory", "score\npoints"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in report.rows:
        c = cells(row, report.rows[0])
        name = Text.assemble(c.name, "\n", (c.status, {"kept": "green", "undone": "red"}.get(c.status, "dim")))
        pairs = [(c.size, c.size_times), (c.p50, c.p99), (c.speed, c.spread), (c.load, c.cold), (c.memory, ""),
                 (c.score, c.points)]  # fmt: skip
        table.add_row(name, *("\n".join(pair) for pair in pairs))
    return table


def cells(row: Row, base: Row) -> Cells:
    """A row's figures in words, beside the baseline's."""
    alone = row.alone or Alone(None, None, None, None)
    times, spread = speed_words(row, base)
    score, points = _score(row, base)
    return Cells(
        name=row.name,
        size=show_bytes(row.bytes),
        size_times="" if row is base else show_times(row.bytes / base.bytes),
        p50=NONE if row.timing is None else show_ms(row.timing.p50),
        p99=NONE if row.timing is None or row.timing.averaged else show_ms(row.timing.p99),
        speed=times,
        spread=spread,
        load=_ms(alone.load_ms),
        cold=_ms(alone.cold_start_ms),
        memory=NONE if alone.peak_memory is None else show_bytes(alone.peak_memory),
        score=score,
        points=points,
        status="baseline" if row is base else _status(row),
    )


def _status(row: Row) -> str:
    """What became of the step that made the row; nothing where none was judged, as for the artifacts of a user."""
    return ("kept" if row.kept else "undone") if row.why else ""


def speed_words(row: Row, base: Row) -> tuple[str, str]:
    """How many times as fast as the baseline, with quartiles; only where both were timed in one run."""
    if row.timing is None or base.timing is None:
        return NONE, ""
    if row is base:
        return "1x", ""
    try:
        ratio = speed(row.timing, base.timing)
    except UsageError:  # another run, other shapes
        return NONE, ""
    return show_times(ratio.median), f"{show_times(ratio.low)[:-1]}–{show_times(ratio.high)[:-1]}"


def _score(row: Row, base: Row) -> tuple[str, str]:
    """The first score, and the points that it lies from the baseline's; the others follow below the table."""
    if not row.score:
        return NONE, ""
    name, value = next(iter(row.score.items()))
    if row is base or not base.score or name not in base.score:
        return f"{value:.4f}", ""
    return f"{value:.4f}", show_points(value - base.score[name])


def sections(report: Report) -> Iterator[tuple[str, list[str]]]:
    """What is said below the table: title and lines."""
    if report.ships:
        yield f"ships: {report.ships}", []
    if report.budget:
        verdict = f"fits the budget {report.budget}" if report.fits else f"over the budget {report.budget}"
        yield verdict, list(report.misses)
    steps = [f"{row.name}: {row.why}" for row in report.rows if row.why]
    steps += [f"{name}: nothing to do" for name in report.idle]
    if steps:
        yield "steps", steps
    texts = [f"{row.name}: {line}" for row in report.rows for line in _language(row)]
    if texts:
        yield "text", texts
    tried = [f"{row.name}: {line}" for row in report.rows for line in show_tried(row.tried)]
    if tried:
        yield "threads and batches", tried
    repeats = [f"{row.name}: p50 {show_repeats(row.repeats)}" for row in report.rows if row.repeats]
    if repeats:
        yield "repeated", repeats
    lasting = [f"{row.name}: {show_sustained(s)}" for row in report.rows if row.timing and (s := row.timing.sustained)]
    if lasting:
        yield "sustained", lasting
    units = report.device.units
    placed = [f"{r.name}: {words}" for r in report.rows if (words := show_elsewhere(r.placement, r.format, units))]
    if placed:
        yield "where it runs", placed
    scores = [f"{row.name}: {_all_scores(row, report.rows[0])}" for row in report.rows if row.score]
    if scores:
        yield "scores", scores
    downloads = [f"{row.name}: {_download(row, report.rows[0])}" for row in report.rows if row.compressed]
    if downloads:
        yield "compressed, as a download (deflate)", downloads
    doubts = list(_doubt_lines(report.rows))
    if doubts:
        yield "doubts", doubts


def _language(row: Row) -> Iterator[str]:
    """How fast a model reads and writes text: medians over the rounds."""
    for seen in () if row.alone is None else row.alone.language:
        share = "" if seen.share is None else f" ({seen.share:.0%} of what the memory's bandwidth allows)"
        memory = "" if seen.peak_memory is None else f", peak {show_bytes(seen.peak_memory)}"
        yield (
            f"{seen.length} tokens: read {median(seen.prefill):.1f} tokens/s, first token after "
            f"{show_ms(1000 * median(seen.first_token))}, written {median(seen.decode):.1f} tokens/s{share}{memory}"
        )


def _download(row: Row, base: Row) -> str:
    assert row.compressed is not None
    times = "" if row is base or not base.compressed else f", {show_times(row.compressed / base.compressed)}"
    return f"{show_bytes(row.compressed)}{times}"


def _all_scores(row: Row, base: Row) -> str:
    words = []
    for name, value in (row.score or {}).items():
        known = row is not base and base.score and name in base.score
        moved = f" ({_moved(name, value - base.score[name])})" if known and base.score else ""
        words.append(f"{name} {value:.4f}{moved}")
    return ", ".join(words)


def _moved(name: str, change: float) -> str:
    return f"{change:+.4f}" if name in DISTANCES else f"{show_points(change)} points"


def _doubt_lines(rows: tuple[Row, ...]) -> Iterator[str]:
    """Each doubt once, with the models that it is about where it is not about all."""
    texts = dict.fromkeys(doubt.text for row in rows for doubt in row.doubts)
    for text in texts:
        names = [row.name for row in rows if any(doubt.text == text for doubt in row.doubts)]
        yield text if len(names) == len(rows) else f"{', '.join(names)}: {text}"


def where(report: Report) -> str:
    """The device, and how the models were run on it."""
    device, timings = report.device, [row.timing for row in report.rows if row.timing is not None]
    if report.failure:
        return device.link or device.name
    words = [f"{device.name}: {device.cpu}, {device.arch}"]
    if timings:
        first = timings[0]
        words += [f"{first.machine.cores} cores", show_threads(first.threads), f"batch {first.batch}"]
        what = "averages" if any(timing.averaged for timing in timings) else "runs"
        words.append(f"at least {min(len(timing.samples) for timing in timings)} {what} each")
    return ", ".join(words)


def _row(raw: dict[str, Any]) -> Row:
    score, selftest = raw["score"], raw["selftest"]
    return Row(
        **raw
        | {
            "path": Path(raw["path"]),
            "timing": None if raw["timing"] is None else read_timing(raw["timing"]),
            "alone": None if raw["alone"] is None else _alone(raw["alone"]),
            "score": None if score is None else {name: float(value) for name, value in score.items()},
            "selftest": selftest and SelfTest(**selftest | {"difference": float(selftest["difference"])}),
            "doubts": tuple(Doubt(**doubt) for doubt in raw["doubts"]),
            "history": tuple(Step(**step) for step in raw.get("history", ())),
            "tried": tuple(Tried(**one) for one in raw.get("tried", ())),
            "repeats": tuple(raw.get("repeats", ())),
        }
    )


def _alone(raw: dict[str, Any]) -> Alone:
    figures: dict[str, Any] = raw | {"language": tuple(read_language(one) for one in raw.get("language", ()))}
    return Alone(**figures)


def _ms(ms: float | None) -> str:
    return NONE if ms is None else show_ms(ms)
