"""What a prediction says: in a sentence, as tables, as JSON; and its error, where this machine is the one."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from ..devices.benching import benching
from ..devices.device import find_device
from ..devices.words import show_ms, show_threads, show_times
from ..runtime.artifact import read_artifact
from ..runtime.files import read_text
from ..runtime.machine import this_machine
from ..runtime.probe import Probe, from_json
from . import show
from .predict import Prediction, predict

# What the prediction of a ratio may be off by: answers closer to 1 are "as fast".
SAME = 1.15
_ROUND = "the median of the quietest round"


def read_probe(path: Path) -> Probe:
    """A probe's file. Raises DataError where it cannot be read, or is something else."""
    return read_text(path, from_json, "make it: edgepress devices probe --out FILE")


def predicted(path: Path, probe: Probe, tell: Callable[[str], None]) -> Prediction:
    """The prediction of an artifact; measured too where the probe is of this machine."""
    tell(f"predicting {path}")
    found = predict(path, probe)
    here = this_machine()
    if (here.cpu, here.arch, here.cores) != (probe.machine.cpu, probe.machine.arch, probe.machine.cores):
        return found
    tell(f"measuring {path} here")
    artifact = read_artifact(path)
    with benching([artifact], replace(find_device("host"), threads=probe.threads)) as bench:
        timing = bench(artifact, "--limit", "10")
    return replace(found, measured=min(median(block) for block in timing.rounds))


def predicted_model(model: str, data: Path | None, probe: Probe, tell: Callable[[str], None]) -> Prediction:
    """The prediction of a model before anything is done to it: its ONNX file is written and dropped."""
    from ..export.formats import export
    from .source import read_source

    tell("reading the model")
    task = read_source(model, data)
    with TemporaryDirectory() as folder:
        return predicted(export(task.model, "onnx", Path(folder) / task.model.name).path, probe, tell)


def sentences(found: Prediction) -> Iterator[str]:
    """The total with its error, and what int8 and int4 would bring.

    >>> list(sentences(found))[1]
    'int8 would be 1.63x as fast there (0.24 ms).'
    """
    error = "" if found.error is None or found.measured is None else (
        f"; measured here: {show_ms(found.measured)} ({_ROUND}), so the prediction is {100 * found.error:+.0f} % off"
    )  # fmt: skip
    yield f"{found.name} on {found.cpu}, {show_threads(found.threads)}: {show_ms(found.ms['as is'])} predicted{error}."
    for precision in ("int8", "int4"):
        changed = [node for node in found.nodes if precision in node.ms]
        if not changed:
            yield f"{precision}: no product of float32 with constant weights would change."
            continue
        ratio, ms = found.ms["as is"] / found.ms[precision], show_ms(found.ms[precision])
        if 1 / SAME < ratio < SAME:
            yield f"{precision} would be as fast there, within what a prediction can tell ({ms})."
        else:
            words = f"{show_times(ratio)} as fast" if ratio > 1 else f"{show_times(1 / ratio)} slower"
            yield f"{precision} would be {words} there ({ms})."


def render(found: Prediction) -> None:
    """Print the sentences, and what each kind of operator takes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for line in sentences(found):
        console.print(line, highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("operator", "nodes", "as is", "int8", "int4"):
        table.add_column(head, justify="left" if head == "operator" else "right", no_wrap=True)
    ops = dict.fromkeys(node.op for node in sorted(found.nodes, key=lambda node: -node.ms["as is"]))
    for op in ops:
        nodes = [node for node in found.nodes if node.op == op]
        figures = [show_ms(sum(n.ms.get(p, n.ms["as is"]) for n in nodes)) for p in ("as is", "int8", "int4")]
        table.add_row(op, str(len(nodes)), *figures)
    console.print(table)


def to_json(found: Prediction) -> str:
    """The prediction as indented JSON, with its error."""
    return show.as_json(asdict(found) | {"error": found.error})
