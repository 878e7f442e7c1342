"""What `explain` found: as a table in the terminal, as markdown, as JSON, and as pictures in a folder."""

import json
from dataclasses import asdict
from pathlib import Path

from ..devices.report import NONE
from ..devices.words import markdown_line, plain, show_bytes, show_ms, show_points
from ..runtime.files import new_file, refuse_lost, write_text
from .explain import Explanation, summary
from .plot import plot, require_matplotlib
from .sensitivity import Cost

SCHEMA = 1
FILES = ("explain.json", "explain.md", "explain.svg", "explain.png")
# Rows that a terminal shows; the files hold all.
_SHOWN = 20
HEADS = ("layer", "kind", "weights", "option", "drop", "KL", "score", "saved", "before", "after")


def legend(found: Explanation) -> str:
    """What the columns are."""
    return (
        f"drop: 1 - mean cosine of {found.output} where this layer alone is changed. saved: bytes of its tensors. "
        f"before, after: the layer run alone on {found.device}, its input and output in float."
    )


def to_json(found: Explanation) -> str:
    """Everything, names as in the code."""
    raw = {"schema": SCHEMA, "summary": summary(found)} | asdict(found)
    return json.dumps(plain(raw), ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(found: Explanation) -> str:
    """The sentences, the table with every row, the legend."""
    lines = [f"# What each layer of {found.model} pays", "", *(f"- {line}" for line in summary(found)), ""]
    lines += [markdown_line(HEADS), markdown_line(["---"] * 2 + ["---:"] + ["---"] + ["---:"] * (len(HEADS) - 4))]
    lines += [markdown_line(_cells(cost, found)) for cost in found.costs]
    return "\n".join([*lines, "", legend(found)]) + "\n"


def render(found: Explanation) -> None:
    """Print the sentences and the worst rows; what is nowhere known has no column."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for line in summary(found):
        console.print(Text(line, style="bold"))
    rows = [_cells(cost, found) for cost in found.costs[:_SHOWN]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer\nkind", overflow="fold", min_width=12)
    table.add_column("weights\noption", no_wrap=True)
    for head in ("drop\nKL", "score\npoints", "saved", "before\nafter"):
        table.add_column(head, justify="right", no_wrap=True)
    for layer, kind, weights, option, drop, kl, score, saved, before, after in rows:
        points = score.partition(" (")[2].rstrip(")")
        cells = [(layer, kind), (weights, option), (drop, kl), (score.partition(" ")[0], points), (saved, ""),
                 (before, after)]  # fmt: skip
        table.add_row(*(Text("\n".join(pair)) for pair in cells))
    console.print(table)
    if len(found.costs) > _SHOWN:
        console.print(Text(f"{len(found.costs) - _SHOWN} more rows, with smaller drops: --out FOLDER or --json"))
    console.print(Text(legend(found), style="dim"))


def refuse_unwritable(folder: Path) -> None:
    """Raise UsageError where one of the files lies in the folder that `save` did not write, MissingExtra where it
    could not draw: before the work, not after it."""
    require_matplotlib()
    refuse_lost(folder, FILES, "from edgepress explain")


def save(found: Explanation, folder: Path) -> None:
    """Write `explain.json`, `explain.md`, `explain.svg` and `explain.png`. Raises MissingExtra without matplotlib."""
    write_text(folder / "explain.json", to_json(found))
    write_text(folder / "explain.md", to_markdown(found))
    for kind in ("svg", "png"):
        with new_file(folder / f"explain.{kind}") as draft:
            plot(found, draft, kind)


def _cells(cost: Cost, found: Explanation) -> list[str]:
    score = NONE
    if cost.score is not None:
        (before,) = found.score.values()
        score = f"{cost.score:.4f} ({show_points(cost.score - before)})"
    kl = NONE if cost.kl is None else f"{cost.kl:.6f}"
    ms = [NONE if ms is None else show_ms(ms) for ms in (cost.before_ms, cost.after_ms)]
    saved = show_bytes(cost.saved) if cost.saved >= 0 else f"-{show_bytes(-cost.saved)}"
    return [cost.layer, cost.kind, f"{cost.weights:,}", cost.option, f"{cost.drop:.6f}", kl, score, saved, *ms]
