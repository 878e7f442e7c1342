"""The command line: parse, call one function, print. It decides nothing."""

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .terminal import Commands, fault, progress, say, usage, write_anyway

if TYPE_CHECKING:
    from ..devices.report import Report

# A shell gives 130 for a program that Ctrl-C ended, and 141 for one whose reader went away (`| head -1`).
FITS, MISSED, WRONG, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
_force = click.option("--force", is_flag=True, help="Replace an artifact that is there already.")
_data = click.option("--data", type=click.Path(path_type=Path), metavar="FILE",
                     help="texts.txt (a sample a line) for a folder, batch.npz for an ONNX file.")  # fmt: skip
_on = click.option("--on", default="host", show_default=True, metavar="DEVICE", help="See: edgepress devices.")
_lengths = click.option(
    "--lengths", default="", metavar="N,N", help="Lengths of a free axis where shapes are fixed: 16,64."
)
_threads = click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of the engine; its own choice.")
_budget = click.option("--budget", default="", metavar="LIMITS", help='Like "size<1MB, latency<2ms, drop<1%".')


@dataclass
class _Asked:
    """What stands before the command's name; `main` reads it when the command has failed."""

    debug: bool = False


def example(text: str) -> Callable[[Any], Any]:
    """Add an example to a command's --help, its lines kept as they are."""

    def add(command: Any) -> Any:
        command.epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.splitlines())
        return command

    return add


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="edgepress")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> int:
    """Make a trained model small, ship it, and prove what it costs on the device."""
    context.obj.debug = debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return WRONG
    return FITS


@example(
    'edgepress compress samples/digits/task.py --budget "size<105kB, drop<0.5%"\n'
    "edgepress compress minilm --recipe encoder --data texts.txt --out out"
)
@cli.command()
@click.argument("model")
@click.option("--recipe", default="int8", show_default=True, metavar="NAME|FILE", help="See: edgepress recipes.")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT", help="The format to export to.")
@_on
@_budget
@click.option("--out", default="out", show_default=True, type=click.Path(path_type=Path), help="The folder to write.")
@_data
@_lengths
@_force
@_json
def compress(
    model: str, recipe: str, to: str, on: str, budget: str, out: Path, data: Path | None, lengths: str, force: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Make MODEL smaller, measure each step, keep what pays.

    MODEL is a task file (task.py or task.py:name), a Hugging Face folder, or an .onnx file. It is exported as it is
    and after each pass of the recipe, and each file is measured on the device beside the one before it.
    """
    from ..devices.budget import parse_budget
    from ..devices.device import find_device
    from .recipe import find_recipe, recipe_table

    limits, device = parse_budget(budget), find_device(on)
    recipe_table(recipe)  # a name that is not there is told before anything heavy is imported
    follows = os.environ.get("RANK", "0") != "0"  # torchrun's: the first process speaks for all
    with progress(quiet=as_json or follows) as tell, _compressing():
        tell("reading the model")
        from .pipeline import compress as run
        from .source import read_source, with_lengths

        passes = find_recipe(recipe)
        task = with_lengths(read_source(model, data), lengths)
        report = run(task.model, passes, task.data, to=to, on=device, budget=limits, out=out, force=force, tell=tell)
    if not follows:
        _show(report, as_json)
    if not (as_json or follows):
        click.echo(f"written: {out / report.ships}, {out / 'report.md'}, {out / 'report.json'}")
    return FITS if report.fits else MISSED


@example(
    "edgepress explain samples/digits/task.py --option int8 --option rank=0.5\n"
    "edgepress explain minilm --data texts.txt --layers '*.layer.0.*' --out why"
)
@cli.command()
@click.argument("model")
@_data
@click.option("--option", "options", multiple=True, default=("int8", "int4"), show_default="int8, int4", metavar="NAME",
              help="int8, static, int4, packed, rank=SHARE or cut=SHARE; may be repeated.")  # fmt: skip
@click.option("--layers", multiple=True, default=("*",), metavar="PATTERN", help="Only these; may be repeated.")
@click.option("--scored", default=3, show_default=True, type=click.IntRange(0), metavar="N",
              help="Score the N worst from exported files.")  # fmt: skip
@_on
@click.option("--out", type=click.Path(path_type=Path), help="Write explain.json, .md, .svg and .png there.")
@_json
def explain(
    model: str, data: Path | None, options: tuple[str, ...], layers: tuple[str, ...], scored: int, on: str,
    out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Say which layer of MODEL costs how much accuracy.

    Each layer is changed alone, by each option: what that costs, what it saves, and what the layer takes on the device.
    """
    from ..devices.device import find_device

    device = find_device(on)
    with progress(quiet=as_json) as tell, _compressing():
        tell("reading the model")
        from . import explained
        from .explain import explain as run
        from .source import read_source

        if out is not None:
            explained.refuse_unwritable(out)
        task = read_source(model, data)
        found = run(task.model, replace(task.data, tell=tell), options, device, layers=layers, scored=scored)
        if out is not None:
            explained.save(found, out)
    click.echo(explained.to_json(found), nl=False) if as_json else explained.render(found)
    return FITS


@example("edgepress export samples/digits/task.py --to onnx --out out/digits")
@cli.command()
@click.argument("model")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT", help="The format to export to.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The artifact's folder.")
@_data
@_lengths
@_force
def export(model: str, to: str, out: Path, data: Path | None, lengths: str, force: bool) -> int:
    """Write MODEL as it is in another format.

    The artifact is a folder: the model's file, its manifest with the hashes, and golden samples.
    """
    from ..runtime.files import refuse_existing

    refuse_existing(out, force=force)
    with progress() as tell, _compressing():
        tell("reading the model")
        from ..export.formats import export as write
        from .source import read_source, with_lengths

        task = with_lengths(read_source(model, data), lengths)
        tell(f"exporting to {to}")
        artifact = write(task.model, to, out, force=force)
    click.echo(f"written: {out} ({artifact.bytes:,} bytes of model)")
    return FITS


@example("edgepress run out/digits-int8 --input image=image.npy\nedgepress run out/minilm --text 'Hello there.'")
@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy|FILE.npz", help="An input; may be repeated.")
@click.option("--text", help="Text for a model with a tokenizer.")
@click.option("--golden", is_flag=True, help="Run the first golden sample.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.npz", help="Keep the outputs.")
@_threads
@_json
def run(
    artifact: Path, inputs: tuple[str, ...], text: str | None, golden: bool, save: Path | None, threads: int | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Run ARTIFACT once and print what it says.

    ARTIFACT is a folder that edgepress wrote, or a bare .onnx or .tflite file.
    """
    from ..runtime.session import load
    from . import show
    from .inputs import read_inputs

    model = load(artifact, threads=threads)
    outputs = model(**read_inputs(model, inputs, text, golden))
    if save is not None:
        show.save_outputs(outputs, save)
    click.echo(show.outputs_json(outputs) if as_json else show.outputs_text(outputs, model.artifact))
    return FITS


@example("edgepress report out/digits-fp32 out/digits-int8 --budget 'latency<1ms'")
@cli.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@_on
@_budget
@click.option("--task", metavar="MODEL", help="The task file (or folder, with --data) whose score judges them.")
@_data
@click.option("--input", "inputs", type=click.Path(path_type=Path), metavar="FILE.npz", help="The inputs to time with.")
@click.option(
    "--runs", default=100, show_default=True, type=click.IntRange(1), metavar="N", help="Timed runs, at least."
)
@_threads
@click.option("--out", type=click.Path(path_type=Path), help="Write report.json and report.md there.")
@_json
def report(
    artifacts: tuple[Path, ...], on: str, budget: str, task: str | None, data: Path | None, inputs: Path | None,
    runs: int, threads: int | None, out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Measure ARTIFACTS in turn: size, latency, memory, score.

    ARTIFACTS are folders that edgepress wrote, or bare .onnx or .tflite files. The first is the baseline that the
    others are compared with; the budget is for the last.
    """
    from ..devices.budget import misses, parse_budget
    from ..devices.device import find_device
    from ..devices.measure import measure
    from ..devices.report import Report, refuse_foreign, save
    from ..runtime.artifact import read_artifact

    if out is not None:
        refuse_foreign(out)
    limits, device = parse_budget(budget), find_device(on)
    device = device if threads is None else replace(device, threads=threads)
    opened = [read_artifact(path) for path in artifacts]
    with progress(quiet=as_json) as tell:
        score = _score(task, data, tell)
        rows = measure(opened, device, score=score, runs=runs, inputs=inputs, on_progress=tell)
    title = f"{rows[-1].name} on {device.name}"
    result = Report(title, device, rows, str(limits), misses(rows[-1], rows[0], limits), ships=rows[-1].name)
    if out is not None:
        save(result, out)
    _show(result, as_json)
    return FITS if result.fits else MISSED


@example("edgepress verify out/digits-int8")
@cli.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@_json
def verify(artifacts: tuple[Path, ...], as_json: bool) -> int:
    """Check the hashes of ARTIFACTS, and replay their golden samples.

    Of a bare .onnx or .tflite file nothing is recorded: it is opened, and run twice on invented inputs.
    """
    from ..runtime.artifact import check, read_artifact
    from ..runtime.invented import try_out
    from ..runtime.session import load
    from . import show

    checks = []
    for path in artifacts:
        check(read_artifact(path))
        model = load(path, verify=False)
        checks.append((path, try_out(model) if model.artifact.bare else model.selftest()))
    click.echo(show.checks_json(checks) if as_json else show.checks_text(checks))
    return FITS if all(check.passed for _, check in checks) else MISSED


@example("edgepress inspect out/digits-int8")
@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@_json
def inspect(artifact: Path, as_json: bool) -> int:
    """Say what ARTIFACT is: ports, files, history, operators.

    ARTIFACT is a folder that edgepress wrote, or a bare .onnx or .tflite file.
    """
    from . import show
    from .facts import artifact_facts

    facts = artifact_facts(artifact)
    click.echo(show.as_json(facts)) if as_json else show.facts(facts)
    return FITS


@example("edgepress recipes\nedgepress compress MODEL --recipe my.toml")
@cli.command()
@_json
def recipes(as_json: bool) -> int:
    """List the recipes: what each is for, and its passes."""
    from . import show
    from .recipe import recipe_names, recipe_table

    tables = {name: recipe_table(name) for name in recipe_names()}
    click.echo(show.as_json(tables)) if as_json else show.recipes(tables)
    return FITS


@example("edgepress devices\nedgepress compress MODEL --on pi5")
@cli.command()
@_json
def devices(as_json: bool) -> int:
    """List the devices that a model is made for and measured on."""
    from dataclasses import asdict

    from ..devices.device import device_names, find_device
    from . import show

    found = {name: asdict(find_device(name)) for name in device_names()}
    click.echo(show.as_json(found)) if as_json else show.devices(found)
    return FITS


@example("edgepress doctor")
@cli.command()
@_json
def doctor(as_json: bool) -> int:
    """Say what is installed, and the line that installs the rest."""
    from . import show
    from .doctor import examine

    found = examine()
    click.echo(show.as_json(found)) if as_json else show.doctor(found)
    return FITS


def _score(task: str | None, data: Path | None, tell: Callable[[str], None]) -> Any:
    if task is None:
        if data is not None:
            raise click.UsageError("--data goes with --task, whose score it is for; name both or none.")
        return None
    with _compressing():
        tell("reading the task")
        from .source import read_source

        return read_source(task, data).data.score


def _show(report: "Report", as_json: bool) -> None:
    from ..devices.report import render, to_json

    if as_json:
        click.echo(to_json(report), nl=False)
        return
    from rich.console import Console

    render(report, Console())


@contextmanager
def _compressing() -> Iterator[None]:
    """Name the extra where a library of the workshop is missing; the runtime alone needs none of them."""
    # Threads of torch that wait do not spin: beside other programs a run took 31 s instead of 119. Read when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    except ModuleNotFoundError as error:
        from ..runtime.errors import MissingExtra

        raise MissingExtra(error.name or "torch", "compress") from error


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. Exit codes: 0 fits, 1 a budget or a check failed, 2 wrong usage or input, 130 Ctrl-C."""
    asked = _Asked()
    write_anyway()
    atexit.register(gc.freeze)  # or the interpreter looks for two seconds what of torch could be freed, and then ends
    try:
        code = cli(arguments, "edgepress", standalone_mode=False, obj=asked)
    except click.ClickException as error:
        say(usage(error))
        code = WRONG
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what is finished is kept, the same command goes on from there")
        code = INTERRUPTED
    except SystemExit:  # click's and rich's answer to a closed pipe; the commands return their code
        code = UNREAD
    except Exception as error:
        if asked.debug:
            traceback.print_exception(error)
        else:
            say(fault(error))
        raise SystemExit(WRONG) from error
    sys.exit(code)
