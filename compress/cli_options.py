"""What the commands share: options, exit codes, a report on the terminal, and the extra that is missing."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..devices.report import Report
    from ..export.model import Web

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
webgpu = click.option("--webgpu", is_flag=True, help="Web: carry ONNX Runtime's WebGPU build too, 27 MB more.")
max_file = click.option("--max-file", default="", metavar="SIZE", help="Web: split what is larger: 25MB.")
ort_web = click.option("--ort-web", type=click.Path(path_type=Path), metavar="DIR",
                        help="Web: take onnxruntime-web from there, without a network.")  # fmt: skip
threads = click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of the engine; its own choice.")
budget = click.option("--budget", default="", metavar="LIMITS|FILE.toml",
                       help='Like "size<1MB, latency<2ms, drop<1%".')  # fmt: skip


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


def written(folder: Path, *, several: bool = False) -> str:
    """The files of a report in a folder, or of those of several devices, the page first."""
    from ..devices import beside, report

    return ", ".join(str(folder / name) for name in reversed(beside.FILES if several else report.FILES))


def is_named(context: click.Context, name: str) -> bool:
    """True where a parameter stands on the command line, and is not its default."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def is_file(model: str) -> bool:
    """True for an artifact's folder and for a bare file that an engine opens. Raises UsageError for a family."""
    from ..runtime.artifact import BARE_FORMATS, MANIFEST
    from ..runtime.family import is_family

    path = Path(model)
    if is_family(path):
        raise click.UsageError(f"{model} is a family; name one of its members, as {path / 'onnx'}")
    return (path / MANIFEST).is_file() or (path.suffix.lower() in BARE_FORMATS and path.is_file())


def web_settings(formats: Sequence[str], webgpu: bool, max_file: str, ort_web: Path | None) -> "Web":
    """The settings of a web build, as they are typed. Raises UsageError for another format, and a size that is none."""
    from ..devices.budget import parse_budget
    from ..export.model import Web
    from ..runtime.errors import UsageError

    if (webgpu or max_file or ort_web) and "web" not in formats:
        raise click.UsageError("--webgpu, --max-file and --ort-web go with --to web.")
    try:
        return Web(parse_budget(f"size<{max_file}").size if max_file else None, ort_web, webgpu)
    except UsageError as error:
        raise UsageError(f"--max-file {max_file}: expected a size, as 25MB") from error


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
