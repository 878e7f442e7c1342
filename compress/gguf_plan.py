"""The plan of a GGUF quantization for people and for scripts: what every tensor really becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..devices.words import show_bytes
from ..export.gguf_quantize import Planned


def to_facts(kind: str, planned: Sequence[Planned]) -> dict[str, Any]:
    """The plan as data: `tensors` with their bits a weight, and what is forced; bytes and bits of the whole."""
    tensors = [asdict(one) | {"bits": round(one.bits, 4), "better": one.better} for one in planned]
    return {"type": kind, "bytes": _bytes(planned), "bits": round(_bits(planned), 4), "tensors": tensors,
            "substituted": [one.name for one in planned if one.substituted]}  # fmt: skip


def render(kind: str, planned: Sequence[Planned]) -> None:
    """Print a row a tensor, and below what their shapes force."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, justify in (("tensor", "left"), ("shape", "left"), ("from", "left"), ("to", "left")):
        table.add_column(head, justify=justify, no_wrap=head == "to")  # pyright: ignore[reportArgumentType]
    table.add_column("bits", justify="right")
    table.add_column("size", justify="right")
    table.add_column("")
    for one in planned:
        why = f"not {one.wanted}, for rows of {one.shape[-1]}" if one.substituted else ""
        why += f": {one.better} errs less" if one.better else ""
        shape = "×".join(map(str, one.shape))
        table.add_row(one.name, shape, one.stored, one.type, f"{one.bits:.2f}", show_bytes(one.bytes), why)
    console = Console(highlight=False, width=max(100, Console().width))
    console.print(table)
    console.print(
        f"{kind}: {show_bytes(_bytes(planned))}, {_bits(planned):.2f} bits a weight.{_forced(planned)}", soft_wrap=True
    )


def _forced(planned: Sequence[Planned]) -> str:
    forced = [one for one in planned if one.substituted]
    if not forced:
        return " No tensor's shape forces another type."
    better = f", and {forced[0].better} errs less at no more bytes" if forced[0].better else ""
    return f" {len(forced)} tensors get another type for the length of their rows{better}; --strict refuses that."


def _bytes(planned: Sequence[Planned]) -> int:
    return sum(one.bytes for one in planned)


def _bits(planned: Sequence[Planned]) -> float:
    counts: Mapping[str, float] = {one.name: 8 * one.bytes / one.bits for one in planned}
    return 8 * _bytes(planned) / sum(counts.values())
