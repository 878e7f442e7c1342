"""What the commands share: options, exit codes, a report on the terminal, and the extra that is missing."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..devices.report import Report

# A shell gives 130 for a program that Ctrl-C ended, and 141 for one whose reader went away (`| head -1`).
FITS, MISSED, WRONG, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
force = click.option("--force", is_flag=True, help="Replace an artifact that is there already.")
data = click.option("--data", type=click.Path(path_type=Path), metavar="FILE",
                     help="texts.txt (a sample a line) for a folder, batch.npz for an ONNX file.")  # fmt: skip
on = click.option("--on", default="host", show_default=True, metavar="DEVICE", help="See: edgepress devices.")
lengths = click.option(
    "--lengths", default="", metavar="N,N", help="Lengths of a free axis where shapes are fixed: 16,64."
)
threads = click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of the engine; its own choice.")
budget = click.option("--budget", default="", metavar="LIMITS", help='Like "size<1MB, latency<2ms, drop<1%".')


def example(text: str) -> Callable[[Any], Any]:
    """Add an example to a command's --help, its lines kept as they are."""

    def add(command: Any) -> Any:
        command.epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.splitlines())
        return command

    return add


def show_report(report: "Report", as_json: bool) -> None:
    """Print a report as a table, or as JSON."""
    from ..devices.report import render, to_json

    if as_json:
        click.echo(to_json(report), nl=False)
        return
    from rich.console import Console

    render(report, Console())


def show_reports(reports: "Sequence[Report]", as_json: bool) -> None:
    """Print the reports of several devices, as tables or as JSON."""
    from ..devices.beside import render_all, to_json_list

    if as_json:
        click.echo(to_json_list(reports), nl=False)
        return
    from rich.console import Console

    render_all(reports, Console())


@contextmanager
def compressing() -> Iterator[None]:
    """Name the extra where a library of the workshop is missing; the runtime alone needs none of them."""
    # Threads of torch that wait do not spin: beside other programs a run took 31 s instead of 119. Read when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    except ModuleNotFoundError as error:
        from ..runtime.errors import MissingExtra

        raise MissingExtra(error.name or "torch", "compress") from error
