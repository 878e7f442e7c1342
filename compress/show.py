"""What the commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices.words import plain, show_bytes, show_ms
from ..runtime.artifact import Artifact
from ..runtime.errors import UnsupportedError, UsageError
from ..runtime.files import new_file

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_SHOWN = 8  # numbers of an output that a terminal shows
_BEST = 3  # classes


def as_json(value: Any) -> str:
    """Indented JSON; NaN and infinities are written as strings."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def outputs_json(outputs: Mapping[str, np.ndarray]) -> str:
    """Each output with its type, its shape and all of its values, in one line."""
    found = {n: {"dtype": str(a.dtype), "shape": list(a.shape), "values": a.tolist()} for n, a in outputs.items()}
    return json.dumps(plain(found), ensure_ascii=False, allow_nan=False)


def outputs_text(outputs: Mapping[str, np.ndarray], artifact: Artifact) -> str:
    """Classes with their shares where the model ships labels; else the first numbers of each output."""
    path = artifact.asset("labels.json")
    labels = json.loads(path.read_text(encoding="utf-8")) if path else None
    lines = []
    for name, array in outputs.items():
        if isinstance(labels, list) and array.ndim == 2 and array.shape[1] == len(labels):
            lines += [f"{name}: {_classes(row, labels)}" for row in array.astype(np.float64)]
            continue
        head = ", ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in array.ravel()[:_SHOWN].tolist())
        more = f", … ({array.size} in all)" if array.size > _SHOWN else ""
        lines.append(f"{name} {array.dtype}{list(array.shape)}: {head}{more}")
    return "\n".join(lines)


def _classes(row: np.ndarray, labels: Sequence[str]) -> str:
    """The best classes of a row of logits, or of shares that add up to 1 already."""
    shares = row if row.min() >= 0 and abs(row.sum() - 1) < 1e-3 else np.exp(row - row.max())
    shares = shares / shares.sum()
    return ", ".join(f"{labels[i]} {100 * shares[i]:.1f} %" for i in np.argsort(-shares)[:_BEST])


def save_outputs(outputs: Mapping[str, np.ndarray], path: Path) -> None:
    """Keep outputs as `.npz`; raises UsageError for another ending, UnsupportedError for strings."""
    if path.suffix != ".npz":
        raise UsageError(f"--save {path}: expected a name that ends with .npz")
    for name, array in outputs.items():
        if array.dtype.hasobject:
            raise UnsupportedError(f"--save {path}: the output {name!r} holds strings, which NumPy would pickle")
    with new_file(path) as draft, draft.open("wb") as stream:
        np.savez_compressed(stream, **outputs)  # pyright: ignore[reportArgumentType] - stubs want allow_pickle first


def facts(found: Mapping[str, Any]) -> None:
    """Print what `inspect` found, a line a fact."""
    table = _table()
    for name, value in found.items():
        table.add_row("size" if name == "bytes" else name, _text(_fact(name, value)))
    _print(table)


def family_facts(found: Mapping[str, Any]) -> None:
    """Print what `inspect` found of a family: how fast its members are and where that was seen, then each member."""
    measured, table = found["measured"], _table()
    table.add_row("path", _text(found["path"]))
    table.add_row("formats", ", ".join(found["members"]))
    if measured is not None:
        times = ", ".join(f"{form} {show_ms(ms)}" for form, ms in found["p50_ms"].items() if ms is not None)
        threads = "the engines' threads" if measured["threads"] is None else f"threads {measured['threads']}"
        place = f"{measured['device']}: {measured['cpu']}, {measured['arch']}, {measured['cores']} cores, {threads}"
        table.add_row("p50", _text([times, place]))
    _print(table)
    for member in found["members"].values():
        facts(member)


def _fact(name: str, value: Any) -> list[str] | str:
    """The lines of one fact."""
    if name == "bytes":
        return show_bytes(value)
    if name == "files":
        return [f"{n}  {show_bytes(f['bytes'])}  {f['role']}  sha256 {_short(f['sha256'])}" for n, f in value.items()]
    if name == "tensors":
        return [f"{kind}  {show_bytes(t['bytes'])}  in {t['tensors']}" for kind, t in value.items()]
    if name == "history":
        return [f"{step['name']}: {step['note']}" for step in value] or "as it came"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item) if key == 'sha256' else item}" for key, item in value.items())
    return value if isinstance(value, list) else str(value)


def _short(sha256: str) -> str:
    return f"{sha256[:12]}…"


def recipes(tables: Mapping[str, Any]) -> None:
    """Print the recipes with their passes and the settings that they change."""
    table = _table("recipe", "what for", "passes")
    for name, recipe in tables.items():
        passes = []
        for step in recipe["pass"]:
            settings = [f"  {key} = {value}" for key, value in step.items() if key != "name"]
            passes += [step["name"], *settings]
        table.add_row(name, _text(recipe["description"]), _text(passes))
    _print(table)


def devices(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the profiles."""
    table = _table("device", "processor", "memory", "formats", "timed")
    for name, device in found.items():
        memory = "—" if device["ram_mb"] is None else f"{device['ram_mb'] / 1024:.0f} GiB"
        reach = "yes" if device["link"] else "no address"
        table.add_row(name, _text(f"{device['cpu']}, {device['arch']}"), memory, ", ".join(device["formats"]), reach)
    _print(table)


def doctor(found: Mapping[str, Any]) -> None:
    """Print what is ready, and the line that installs the rest."""
    table = _table("to", "ready", "with")
    for use, state in found["uses"].items():
        libraries = [f"{name} {version or 'missing'}" for name, version in state["versions"].items()]
        lines = [", ".join(libraries), *([state["install"]] if state["install"] else [])]
        table.add_row(use, "yes" if state["ready"] else "no", _text(lines))
    _print(table, f"Python {found['python']} on {found['platform']}\n{found['executable']}")


def _table(*heads: str) -> "Table":
    """A table with these heads; without any it is a list of names and values."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=bool(heads), leading=int(bool(heads)))
    table.add_column(heads[0] if heads else "", no_wrap=True)
    for head in heads[1:] or ("",):
        table.add_column(head, overflow="fold")
    return table


def _text(lines: Sequence[str] | str) -> "Text":
    """A cell as it is: rich would read `x float32[batch, 3]` as markup, and drop the brackets."""
    from rich.text import Text

    return Text(lines if isinstance(lines, str) else "\n".join(lines))


def _print(table: "Table", title: str = "") -> None:
    from rich.console import Console

    console = Console()
    if title:
        console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
