"""A placement in words: a row for each provider, what fell back and why, and what would change that."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..devices.words import plain, show_ms, show_share
from ..runtime.placement import Placed, Placement
from ..runtime.providers import PROVIDERS

SCHEMA = 1
HEADS = ("provider", "unit", "nodes", "MACs", "share", "time", "share")
_SILENT = "the engine gives no reason"
_SHOWN = 12  # groups of nodes that fell back, the costliest first

# Operators that accelerators' providers mostly refuse, and what to do about them.
_DYNAMIC = "its scales are found at run time; quantize with scales found beforehand: the pass static_int8"
_BLOCKS = "few providers take weights in blocks, and only some sizes; quantize per channel: the pass static_int8"
REMEDIES: Mapping[str, str] = {
    "DynamicQuantizeLinear": _DYNAMIC,
    "DynamicQuantizeMatMul": _DYNAMIC,
    "MatMulInteger": _DYNAMIC,
    "ConvInteger": _DYNAMIC,
    "MatMulIntegerToFloat": _DYNAMIC,
    "MatMulNBits": _BLOCKS,
    "GatherBlockQuantized": _BLOCKS,
}
_FIXED = "takes fixed shapes only; fix the free axes: edgepress export ARTIFACT --on sm8650 --out FOLDER"
_COPIES = "each change of unit copies what passes between them; one op in the middle that is replaced saves two copies"


@dataclass(frozen=True)
class Fallen:
    """Nodes of one operator that the first provider did not take for one reason, and their share of the MACs."""

    op: str
    provider: str
    reason: str
    nodes: int
    share: float


def fallen(placement: Placement) -> tuple[Fallen, ...]:
    """What did not go to the first provider that was asked for, the costliest first."""
    total = max(sum(placement.macs().values()) + placement.lost, 1)
    others = [node for node in placement.nodes if node.provider != placement.asked[0]]

    def key(node: Placed) -> tuple[str, str, str]:
        return node.op, node.provider, node.reason

    found = []
    for (op, provider, reason), group in groupby(sorted(others, key=key), key):
        nodes = list(group)
        found.append(Fallen(op, provider, reason, len(nodes), sum(node.macs or 0 for node in nodes) / total))
    return tuple(sorted(found, key=lambda f: (-f.share, -f.nodes, f.op)))


def advice(placement: Placement) -> tuple[str, ...]:
    """What to change so that more runs on the first provider; empty where all of it does."""
    first, found = placement.asked[0], fallen(placement)
    if not found:
        return ()
    lines = []
    fixed = first in PROVIDERS and PROVIDERS[first].fixed
    if fixed and not any(node.provider == first for node in placement.nodes):
        lines.append(f"{first} {_FIXED}")
    lines += [f"{op}: {REMEDIES[op]}" for op in dict.fromkeys(f.op for f in found) if op in REMEDIES]
    if len(placement.providers) > 1:
        lines.append(_COPIES)
    return tuple(lines)


def rows(placement: Placement) -> list[tuple[str, ...]]:
    """A row of text for each provider, as HEADS name the columns."""
    counts, macs = placement.counts(), placement.macs()
    total, spent = sum(macs.values()) + placement.lost, sum(placement.ms.values())
    found = []
    for name in placement.providers:
        ms = placement.ms.get(name)
        work = show_share(macs.get(name, 0) / total) if total else ""
        time = (show_ms(ms), show_share(ms / spent)) if ms is not None and spent else ("", "")
        found.append((name, placement.unit(name), str(counts.get(name, 0)), f"{macs.get(name, 0):,}", work, *time))
    return found


def notes(placement: Placement, arch: str) -> tuple[str, ...]:
    """What a reader has to know of these figures, from a machine of the architecture `arch`."""
    found = []
    if placement.lost:
        found.append(f"{placement.lost:,} MACs are of nodes that the engine fused under other names: on no unit")
    if not placement.ms:
        found.append("the engine tells no times")
    if arch in ("x86_64", "amd64") and any(name.startswith("qnn") for name in placement.providers):
        found.append("on x86-64 the Hexagon NPU is simulated: nodes and outputs are the NPU's, times are not")
    return tuple(found)


def to_json(placement: Placement, arch: str, missed: str) -> str:
    """Everything, for scripts."""
    raw: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": placement.asked,
        "providers": {
            name: {
                "unit": placement.unit(name),
                "nodes": placement.counts().get(name, 0),
                "macs": placement.macs().get(name, 0),
                "ms": placement.ms.get(name),
            }
            for name in placement.providers
        },
        "lost": placement.lost,
        "fell back": [vars(group) for group in fallen(placement)],
        "advice": advice(placement),
        "notes": notes(placement, arch),
        "missed": missed,
        "nodes": [vars(node) for node in placement.nodes],
    }
    return json.dumps(plain(raw), ensure_ascii=False, allow_nan=False) + "\n"


def render(placement: Placement, title: str, arch: str, missed: str) -> None:
    """Print the table, what fell back, and what to change; `missed` is what the gate misses."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(_table(HEADS, rows(placement), right=range(2, len(HEADS))))
    groups = fallen(placement)
    if groups:
        console.print(Text(f"not on {placement.asked[0]}:", style="bold"))
        cells = [(f.op, str(f.nodes), show_share(f.share), f.reason or _SILENT) for f in groups[:_SHOWN]]
        console.print(_table(("operator", "nodes", "MACs", "why"), cells, right=(1, 2)))
    if len(groups) > _SHOWN:
        console.print(Text(f"{len(groups) - _SHOWN} more operators: --json"))
    for line in advice(placement):
        console.print(Text(line))
    for line in notes(placement, arch):
        console.print(Text(line, style="dim"))
    if missed:
        console.print(Text(f"missed: {missed}", style="bold red"))


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table
