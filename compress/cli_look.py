"""The commands that look at what is there: run, report, verify, inspect."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import cli_options as options
from .cli_options import FITS, MISSED, compressing, is_named, show_report, show_reports, written
from .terminal import progress

if TYPE_CHECKING:
    from .source import Task


@options.example(
    "edgepress run out/digits-int8 --input image=image.npy\nedgepress run out/minilm --text 'Hello there.'\n"
    "edgepress run out/tiny.gguf --prompt 'Once upon a time' --max-tokens 50"
)
@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy|FILE.npz", help="An input; may be repeated.")
@click.option("--text", help="Text for a model with a tokenizer.")
@click.option("--prompt", help="Text that a language model goes on with.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="The longest answer; as long as fits.")
@click.option("--temperature", type=float, metavar="T", help="0 takes the likeliest token; 1 draws as the model says.")
@click.option("--seed", type=int, metavar="N", help="Draw the same tokens again.")
@click.option("--json-schema", "schema", type=click.Path(path_type=Path), metavar="FILE", help="Answer in such JSON.")
@click.option("--context", type=click.IntRange(1), metavar="N", help="Tokens of prompt and answer together.")
@click.option("--cache", metavar="TYPE", help="The cache of a language model: f16, f32, q8_0, q4_0.")
@click.option("--golden", is_flag=True, help="Run the first golden sample.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.npz", help="Keep the outputs.")
@click.option("--format", "form", metavar="FORMAT", help="The member of a family; the best one here.")
@options.threads
@options.json
def run(
    artifact: Path, inputs: tuple[str, ...], text: str | None, prompt: str | None, max_tokens: int | None,
    temperature: float | None, seed: int | None, schema: Path | None, context: int | None, cache: str | None,
    golden: bool, save: Path | None, form: str | None, threads: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Run ARTIFACT once and print what it says, or chat with it.

    ARTIFACT is a folder that edgepress wrote, or a bare .onnx, .tflite or .gguf file. Of a family the member runs that
    is best here: which and why is told on stderr. A language model goes on with --prompt, and without it chats in the
    terminal.
    """
    from ..runtime.session import load
    from . import show, talk
    from .inputs import read_inputs

    model = load(artifact, format=form, threads=threads, context=context, cache=cache)
    if model.why:
        click.echo(model.why, err=True)
    wishes = talk.Wishes(max_tokens, temperature, seed, schema)
    if talk.talks(model, wishes, prompt=prompt, others=bool(inputs or golden or text is not None or save or as_json)):
        return FITS
    outputs = talk.outputs(model, text) if text is not None else None
    outputs = outputs or model(**read_inputs(model, inputs, text, golden))
    if save is not None:
        show.save_outputs(outputs, save)
    click.echo(show.outputs_json(outputs) if as_json else show.outputs_text(outputs, model.artifact))
    return FITS


@options.example(
    "edgepress report out/digits-fp32 out/digits-int8 --budget 'latency<1ms'\n"
    "edgepress report --compare main/report.json measured/report.json"
)
@click.command()
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), metavar="BEFORE AFTER",
              help="Two report.json: what moved beyond noise.")  # fmt: skip
@options.on
@options.budget
@click.option("--task", metavar="MODEL", help="The task file (or folder, with --data) whose score judges them.")
@options.data
@click.option("--input", "inputs", type=click.Path(path_type=Path), metavar="FILE.npz", help="The inputs to time with.")
@click.option(
    "--runs", default=100, show_default=True, type=click.IntRange(1), metavar="N", help="Timed runs, at least."
)
@click.option("--threads", metavar="N|best", help="Threads of the engine, or the best count for the last artifact.")
@click.option("--batch", default="", metavar="N,N", help="Throughput of the last one by batch: 1,4,16.")
@click.option("--repeat", default=0, metavar="N", help="Bench in N more processes: how far p50 lies apart.")
@click.option("--sustain", default="", metavar="TIME", help="Run the last one without a pause: 5m. Heat, throttling.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write report.html, .md and .json there (of several devices: reports.*).",
)
@options.json
def report(
    artifacts: tuple[Path, ...], compare: tuple[Path, Path] | None, on: str, budget: str, task: str | None,
    data: Path | None, inputs: Path | None, runs: int, threads: str | None, batch: str, repeat: int, sustain: str,
    out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Measure ARTIFACTS in turn: size, latency, memory, score.

    DEVICE is a name, an address (ssh://pi@raspberrypi.local, emu://pi5, adb://SERIAL?benchmark=FILE), several with
    commas, or a fleet.toml. ARTIFACTS are folders that edgepress wrote, or bare .onnx, .tflite or .gguf files. The
    first is the baseline that the others are compared with; the budget is for the last, and for those that its file
    names. A family stands for each of its members. With --compare nothing is measured: two reports are read, and
    the exit code is 1 where anything became worse.
    """
    if compare is not None:
        return _compare(*compare, as_json)
    if not artifacts:
        raise click.UsageError("name the artifacts to measure, or two reports with --compare.")
    from ..devices.beside import refuse_foreign_list, save_all
    from ..devices.beyond import Wishes, beyond, with_best_threads
    from ..devices.budget_file import misses_of_groups, read_limits, words
    from ..devices.device import Device, find_device
    from ..devices.fleet import is_fleet, once, over_fleet, read_fleet
    from ..devices.lasting import read_seconds
    from ..devices.measure import measure
    from ..devices.report import Report, refuse_foreign, save
    from ..devices.sweep import read_batches
    from ..runtime.artifact import read_artifact
    from ..runtime.family import members
    from .placed import shares

    several = is_fleet(on)
    if out is not None:
        refuse_foreign_list(out) if several else refuse_foreign(out)
    limits, targets = read_limits(budget), read_fleet(on) if several else find_device(on)
    count = None if threads in (None, "best") else _count(threads)
    wishes = Wishes(read_batches(batch) if batch else (), repeat, read_seconds(sustain) if sustain else 0.0)
    opened = [[read_artifact(member) for member in members(path)] for path in artifacts]
    names = [
        given[0].name if len(given) == 1 else path.resolve().name for path, given in zip(artifacts, opened, strict=True)
    ]
    limits.refuse_others(names)

    def measured(device: Device, tell: Callable[[str], None]) -> Report:
        device = device if count is None else replace(device, threads=count)
        flat = [artifact for given in opened for artifact in given]
        tried = ()
        if threads == "best":
            device, tried = with_best_threads(flat[-1], device, inputs, tell)
        rows = measure(flat, device, score=score, runs=runs, inputs=inputs, shares=shares, on_progress=tell)
        rows = (*rows[:-1], replace(rows[-1], tried=tried))
        rows = beyond(rows, flat, device, wishes, inputs, tell)
        left = iter(rows)
        missed = misses_of_groups(
            [(name, [next(left) for _ in given]) for name, given in zip(names, opened, strict=True)], limits
        )
        title = f"{names[-1]} on {device.name}"
        return Report(title, device, rows, words(limits, names[-1]), missed, ships=names[-1])

    with progress(quiet=as_json) as tell:
        score = once(_score(task, data, tell))
        result = measured(targets, tell) if isinstance(targets, Device) else over_fleet(targets, measured, tell)
    if isinstance(result, Report):
        if out is not None:
            save(result, out)
        show_report(result, as_json)
        if out is not None and not as_json:
            click.echo(f"written: {written(out)}")
        return FITS if result.fits else MISSED
    if out is not None:
        save_all(result, out)
    show_reports(result, as_json)
    if out is not None and not as_json:
        click.echo(f"written: {written(out, several=True)}")
    return FITS if all(one.fits for one in result) else MISSED


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise click.UsageError(f"--threads {text}: expected a number from 1 on, or best.")
    return int(text)


def _compare(before: Path, after: Path, as_json: bool) -> int:
    context = click.get_current_context()
    given = [
        option.human_readable_name if isinstance(option, click.Argument) else option.opts[0]
        for option in context.command.params
        if option.name not in ("compare", "as_json", None) and is_named(context, option.name)
    ]
    if given:
        raise click.UsageError(f"--compare reads two reports and measures nothing; leave out: {', '.join(given)}.")
    from rich.console import Console

    from ..devices.compare import compare, read_report, render, to_json

    found = compare(read_report(before), read_report(after))
    click.echo(to_json(found), nl=False) if as_json else render(found, Console())
    return MISSED if found.worse else FITS


@options.example(
    "edgepress verify out/digits-int8\nedgepress verify out/onnx out/tflite --source samples/digits/task.py"
)
@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--source", metavar="MODEL", help="The model that they were made from: it is held against them, and judges."
)
@options.data
@click.option("--out", type=click.Path(path_type=Path), help="Write parity.json, .md, .svg and .png there.")
@options.json
def verify(artifacts: tuple[Path, ...], source: str | None, data: Path | None, out: Path | None, as_json: bool) -> int:
    """Check ARTIFACTS' hashes and golden samples, compare them.

    A family stands for each of its members. Of a bare .onnx, .tflite or .gguf file nothing is recorded: it is run
    twice on invented inputs. Files of one model are compared pair by pair, each pair held to what its precisions allow;
    with --source the layer where two part is named.
    """
    from ..runtime.family import members
    from . import verified
    from .verify import verify as run

    if data is not None and source is None:
        raise click.UsageError("--data goes with --source, whose data it is; name both or none.")
    if out is not None:
        verified.refuse_unwritable(out)
    with progress(quiet=as_json) as tell:
        found = run([member for path in artifacts for member in members(path)], _task(source, data, tell), tell)
    if out is not None:
        verified.save(found, out)
    click.echo(verified.to_json(found), nl=False) if as_json else verified.render(found)
    return FITS if found.passed else MISSED


@options.example("edgepress inspect out/digits-int8\nedgepress inspect --gguf-plan Q4_K_M smollm")
@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--gguf-plan", "kind", metavar="TYPE", help="What each tensor would become in a type of llama.cpp's.")
@options.json
def inspect(artifact: Path, kind: str | None, as_json: bool) -> int:
    """Say what ARTIFACT is: ports, files, history, operators.

    ARTIFACT is a folder that edgepress wrote, or a bare .onnx, .tflite or .gguf file. Of a family all members are told.
    With --gguf-plan it is a Hugging Face folder, or a .gguf file of floats: nothing is written.
    """
    from ..runtime.family import is_family
    from . import show
    from .facts import artifact_facts, family_facts

    if kind is not None:
        _show_plan(artifact, kind, as_json)
        return FITS
    if is_family(artifact):
        family = family_facts(artifact)
        click.echo(show.as_json(family)) if as_json else show.family_facts(family)
        return FITS
    facts = artifact_facts(artifact)
    click.echo(show.as_json(facts)) if as_json else show.facts(facts)
    return FITS


def _show_plan(model: Path, kind: str, as_json: bool) -> None:
    from . import show

    with compressing():
        from . import gguf_plan
        from .gguf_folder import plan_model

        planned = plan_model(model, kind)
    click.echo(show.as_json(gguf_plan.to_facts(kind, planned))) if as_json else gguf_plan.render(kind, planned)


def _score(task: str | None, data: Path | None, tell: Callable[[str], None]) -> Any:
    if task is None:
        if data is not None:
            raise click.UsageError("--data goes with --task, whose score it is for; name both or none.")
        return None
    found = _task(task, data, tell)
    assert found is not None
    return found.data.score


def _task(model: str | None, data: Path | None, tell: Callable[[str], None]) -> "Task | None":
    if model is None:
        return None
    with compressing():
        tell("reading the model")
        from .source import read_source

        return read_source(model, data)
