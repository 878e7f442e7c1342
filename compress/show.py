"""What the commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices.words import show_bytes
from ..runtime.artifact import Artifact
from ..runtime.errors import UsageError
from ..runtime.golden import SelfTest

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 8  # numbers of an output that a terminal shows
_BEST = 3  # classes


def as_json(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def outputs_json(outputs: Mapping[str, np.ndarray]) -> str:
    """Each output with its shape and all of its values."""
    return as_json({name: {"shape": list(a.shape), "values": a.tolist()} for name, a in outputs.items()})


def outputs_text(outputs: Mapping[str, np.ndarray], artifact: Artifact) -> str:
    """Classes with their shares where the model ships labels; else the first numbers of each output."""
    path = artifact.asset("labels.json")
    labels = json.loads(path.read_text(encoding="utf-8")) if path else None
    lines = []
    for name, array in outputs.items():
        if labels and array.ndim == 2 and array.shape[1] == len(labels):
            lines += [f"{name}: {_classes(row, labels)}" for row in array]
            continue
        head = ", ".join(f"{value:.4g}" for value in array.ravel()[:_SHOWN].astype(float))
        more = f", … ({array.size} in all)" if array.size > _SHOWN else ""
        lines.append(f"{name} {array.dtype}{list(array.shape)}: {head}{more}")
    return "\n".join(lines)


def _classes(logits: np.ndarray, labels: Sequence[str]) -> str:
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return ", ".join(f"{labels[i]} {100 * shares[i]:.1f} %" for i in np.argsort(-shares)[:_BEST])


def save_outputs(outputs: Mapping[str, np.ndarray], path: Path) -> None:
    """Keep outputs as `.npz`; raises UsageError for another ending or a place that cannot be written."""
    if path.suffix != ".npz":
        raise UsageError(f"--save {path}: expected a name that ends with .npz")
    try:
        with path.open("wb") as stream:
            np.savez_compressed(stream, **outputs)  # pyright: ignore[reportArgumentType] - stubs want allow_pickle first
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another place") from error


def checks_text(checks: Sequence[tuple[Path, SelfTest]]) -> str:
    """A line for each artifact: what the golden self-test saw."""
    words = []
    for path, check in checks:
        verdict = "computes what it did where it was made" if check.passed else "COMPUTES SOMETHING ELSE here"
        seen = f"{check.cases} golden samples, difference {check.difference:.1e}, tolerance {check.tolerance:.1e}"
        words.append(f"{path}: hashes as exported; {verdict} ({seen})")
    return "\n".join(words)


def checks_json(checks: Sequence[tuple[Path, SelfTest]]) -> str:
    """The same for scripts."""
    return as_json(
        [
            {"path": str(p), "passed": c.passed, "cases": c.cases, "difference": c.difference, "tolerance": c.tolerance}
            for p, c in checks
        ]
    )


def facts(found: Mapping[str, Any]) -> None:
    """Print what `inspect` found, a line a fact."""
    table = _table()
    for name, value in found.items():
        if name == "files":
            value = [
                f"{file} {show_bytes(f['bytes'])} {f['role']} sha256 {f['sha256'][:12]}…" for file, f in value.items()
            ]
        elif name == "history":
            value = [f"{step['name']}: {step['note']}" for step in value] or ["as it came"]
        elif name == "bytes":
            value = show_bytes(value)
        elif isinstance(value, Mapping):
            value = [", ".join(f"{key} {item}" for key, item in value.items())]
        table.add_row(name, "\n".join(value) if isinstance(value, list) else str(value))
    _print(table)


def recipes(tables: Mapping[str, Any]) -> None:
    """Print the recipes with their passes and the settings that they change."""
    table = _table("recipe", "what for", "passes")
    for name, recipe in tables.items():
        passes = []
        for step in recipe["pass"]:
            settings = ", ".join(f"{key}={value}" for key, value in step.items() if key != "name")
            passes.append(f"{step['name']}({settings})")
        table.add_row(name, recipe["description"], "\n".join(passes))
    _print(table)


def devices(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the profiles."""
    table = _table("device", "processor", "memory", "formats", "measured")
    for name, device in found.items():
        memory = "—" if device["ram_mb"] is None else f"{device['ram_mb'] / 1024:.0f} GiB"
        reach = "yes" if device["link"] else "no: it has no address"
        table.add_row(name, f"{device['cpu']}, {device['arch']}", memory, ", ".join(device["formats"]), reach)
    _print(table)


def doctor(found: Mapping[str, Any]) -> None:
    """Print what is ready, and the line that installs the rest."""
    table = _table("to", "ready", "with", "install")
    for use, state in found["uses"].items():
        versions = ", ".join(f"{name} {version or '—'}" for name, version in state["versions"].items())
        table.add_row(use, "yes" if state["ready"] else "no", versions, state["install"])
    _print(table, f"Python {found['python']} ({found['executable']}), {found['platform']}")


def _table(*heads: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=bool(heads))
    for head in heads or ("", ""):
        table.add_column(head, overflow="fold")
    return table


def _print(table: "Table", title: str = "") -> None:
    from rich.console import Console

    console = Console()
    if title:
        console.print(title, highlight=False, markup=False)
    console.print(table)
