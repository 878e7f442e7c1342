"""What `verify` saw: as a table in the terminal, as markdown, as JSON, and as a heat map in a folder."""

import json
from pathlib import Path
from typing import Any

from ..devices.report import NONE
from ..devices.words import markdown_line, plain
from ..export.parity import NATURAL, Pair, as_dict
from ..runtime.files import new_file, refuse_lost, write_text
from .heat_map import heat_map
from .part import Parted
from .plot import require_matplotlib
from .verify import Replay, Verified

SCHEMA = 1
FILES = ("parity.json", "parity.md", "parity.svg", "parity.png")
HEADS = ("a", "b", "cosine", "worst", "difference", "top-1", "KL", "held to", "")
LEGEND = (
    "cosine: the mean over natural samples. worst: the smallest of any sample, and difference: the largest "
    "max|a - b| / max|a|, both over unnatural ones too. held to: what the precisions of the pair allow."
)


def to_json(found: Verified) -> str:
    """Everything, names as in the code."""
    return json.dumps(plain(to_dict(found)), ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(found: Verified) -> dict[str, Any]:
    """The replays, the matrix, the tokenizers that differ, and where pairs part."""
    return {
        "schema": SCHEMA,
        "passed": found.passed,
        "replays": [_replay(replay) for replay in found.replays],
        "parity": None if found.parity is None else as_dict(found.parity),
        "tokenizers": [str(difference) for difference in found.tokenizers],
        "assets": list(found.assets),
        "parted": [_parted(parted) for parted in found.parted],
        "notes": list(found.notes),
    }


def _replay(replay: Replay) -> dict[str, Any]:
    seen = replay.seen
    return {
        "path": str(replay.path), "provider": replay.provider, "recorded": not replay.path.is_file(),
        "passed": seen.passed, "cases": seen.cases, "difference": seen.difference, "tolerance": seen.tolerance,
    }  # fmt: skip


def _parted(parted: Parted) -> dict[str, Any]:
    layer = None if parted.layer is None else vars(parted.layer)
    return {"a": parted.pair.a, "b": parted.pair.b, "layer": layer, "reason": parted.reason}


def to_text(found: Verified) -> str:
    """The lines around the matrix: what was replayed, and below it what is wrong and where."""
    return "\n".join([*(line for replay in found.replays for line in _replayed(replay)), *found.notes])


def _replayed(replay: Replay) -> list[str]:
    seen, path = replay.seen, replay.path
    if path.is_file():
        verdict = "finite outputs, twice alike" if seen.passed else "OUTPUTS NOT FINITE, or not twice alike"
        return [f"{path}: a bare file of which nothing is recorded", f"  run on invented inputs: {verdict}"]
    verdict = "outputs as recorded" if seen.passed else "OUTPUTS DIFFER from the recorded ones; do not ship it"
    figures = f"{seen.cases} golden samples, difference {seen.difference:.1e}, tolerance {seen.tolerance:.1e}"
    where = "" if replay.provider == "cpu" else f", by {replay.provider}"
    return [f"{path}: hashes as exported, {verdict}", f"  {figures}{where}"]


def render(found: Verified) -> None:
    """Print what was replayed, the matrix, and what is wrong."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(to_text(found), markup=False, highlight=False, soft_wrap=True)
    if found.parity is None:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in _grouped(found.parity.samples).items())
    sides = "; ".join(_side(side) for side in as_dict(found.parity)["sides"])
    console.print(Text(f"\nheld against each other on {counts} samples"), Text(sides), sep="\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("pair", "cosine\nworst", "held to", "difference\nat most", "top-1\nKL"):
        table.add_column(head, justify="left" if head == "pair" else "right", overflow="fold", no_wrap=head != "pair")
    for pair in found.parity.pairs:
        style = "bold red" if pair.breaches else ""
        table.add_row(*(Text("\n".join(cell), style=style) for cell in _stacked(pair)))
    console.print(table)
    console.print(Text(LEGEND, style="dim"))
    for line in wrong(found):
        console.print(Text(line, style="bold red"))


def _grouped(samples: Any) -> dict[str, int]:
    """The unnatural ones counted together."""
    natural = {kind: count for kind, count in samples.items() if kind in NATURAL}
    others = sum(samples.values()) - sum(natural.values())
    return natural | ({"unnatural": others} if others else {})


def _side(side: dict[str, Any]) -> str:
    score = ", ".join(f"{name} {value:.4f}" for name, value in side["score"].items())
    return f"{side['name']}: {side['format']} {side['precision']}{', ' + score if score else ''}"


def _stacked(pair: Pair) -> list[tuple[str, str]]:
    """The cells of a pair, two lines each."""
    held = (
        ("other", "networks") if pair.limits is None else (f"{pair.limits.cosine:g}", f"{pair.limits.worst_cosine:g}")
    )
    most = NONE if pair.limits is None or pair.limits.difference is None else f"{pair.limits.difference:.0e}"
    return [
        (pair.a, pair.b),
        (f"{pair.cosine:.5f}", f"{pair.worst_cosine:.5f}"),
        held,
        (f"{pair.difference:.1e}", most),
        (NONE if pair.top1 is None else f"{100 * pair.top1:.2f} %", NONE if pair.kl is None else f"{pair.kl:.1e}"),
    ]


def _cells(pair: Pair) -> list[str]:
    names, (cosine, worst), held, (difference, most), (top1, kl) = _stacked(pair)
    limits = " ".join(held) if pair.limits is None else ", ".join((*held, most))
    return [*names, cosine, worst, difference, top1, kl, limits, "PARTED" if pair.breaches else ""]


def wrong(found: Verified) -> list[str]:
    """A line for each limit that was broken, each layer where a pair parts, each tokenizer or asset that differs."""
    lines = [*map(str, found.tokenizers), *found.assets]
    for parted in found.parted:
        pair = parted.pair
        lines.append(f"{pair.a} and {pair.b} part: {'; '.join(pair.breaches)}")
        lines.append(f"  {_where(parted)}")
    return lines


def _where(parted: Parted) -> str:
    layer, pair = parted.layer, parted.pair
    if layer is None:
        return f"no layer is named: {parted.reason}"
    modules = " + ".join(module or "the model itself" for module in layer.modules)
    at = ", ".join(map(str, layer.index))
    a, b = layer.values
    return (
        f"first at {modules} ({layer.operation}), where {layer.file} is further from the source: at [{at}] {pair.a} "
        f"has {a:.6g}, {pair.b} has {b:.6g}, expected {layer.expected:.6g}"
    )


def to_markdown(found: Verified) -> str:
    """The matrix as a table, and what is wrong."""
    lines = ["# Parity", "", *(f"- {line}" for line in to_text(found).splitlines()), ""]
    if found.parity is not None:
        lines += [f"- {_side(side)}" for side in as_dict(found.parity)["sides"]]
        lines += ["", markdown_line(HEADS), markdown_line(["---"] * len(HEADS))]
        lines += [markdown_line(_cells(pair)) for pair in found.parity.pairs]
        lines += ["", LEGEND, "", *(f"- {line.strip()}" for line in wrong(found))]
    return "\n".join(lines).rstrip() + "\n"


def refuse_unwritable(folder: Path) -> None:
    """Raise UsageError where one of the files lies there that `save` did not write, MissingExtra without matplotlib."""
    require_matplotlib()
    refuse_lost(folder, FILES, "from edgepress verify")


def save(found: Verified, folder: Path) -> None:
    """Write `parity.json`, `parity.md`, and the heat map, `parity.svg` and `parity.png`, where there is a matrix."""
    write_text(folder / "parity.json", to_json(found))
    write_text(folder / "parity.md", to_markdown(found))
    if found.parity is None:
        return
    for kind in ("svg", "png"):
        with new_file(folder / f"parity.{kind}") as draft:
            heat_map(found.parity, draft, kind)
