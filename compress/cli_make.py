"""The commands that make: compress, explain, export."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import cli_options as options
from .cli_options import FITS, MISSED, compressing, is_file, is_named, show_report, written
from .terminal import progress

if TYPE_CHECKING:
    from ..devices.device import Device


@options.example(
    'edgepress compress samples/digits/task.py --budget "size<105kB, drop<0.5%"\n'
    "edgepress compress minilm --recipe encoder --data texts.txt --out out"
)
@click.command()
@click.argument("model")
@click.option("--recipe", default="int8", show_default=True, metavar="NAME|FILE", help="See: edgepress recipes.")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT,…",
              help="One format or several: onnx,tflite.")  # fmt: skip
@options.on
@options.budget
@click.option("--out", default="out", show_default=True, type=click.Path(path_type=Path), help="The folder to write.")
@options.data
@options.lengths
@options.webgpu
@options.max_file
@options.ort_web
@options.force
@options.json
def compress(
    model: str, recipe: str, to: str, on: str, budget: str, out: Path, data: Path | None, lengths: str, webgpu: bool,
    max_file: str, ort_web: Path | None, force: bool, as_json: bool,
) -> int:  # fmt: skip
    """Make MODEL smaller, measure each step, keep what pays.

    MODEL is a task file (task.py or task.py:name), a Hugging Face folder, or an .onnx file. It is exported as it is
    and after each pass of the recipe, and each file is measured on the device beside the one before it. With several
    formats, the first is the one that is judged by; what is kept is exported to all of them, as a family.
    For a device with an NPU, what ships is written once more beside it, its shapes fixed, and what the NPU does not
    take is named.
    """
    from ..devices.budget_file import read_limits
    from ..devices.device import find_device
    from ..runtime.artifact import known_formats
    from ..runtime.family import is_family
    from ..runtime.files import refuse_existing
    from .recipe import find_recipe, recipe_table

    limits, device = read_limits(budget), find_device(on)
    recipe_table(recipe)  # a name that is not there is told before anything heavy is imported
    follows = os.environ.get("RANK", "0") != "0"  # torchrun's: the first process speaks for all
    with progress(quiet=as_json or follows) as tell, compressing():
        tell("reading the model")
        from ..export.formats import EXPORTERS
        from .for_npu import read_length
        from .pipeline import compress as run
        from .source import read_source, with_lengths

        passes = find_recipe(recipe)
        # reading a model may take the minutes of its training
        web = options.web_settings(known_formats(to, EXPORTERS), webgpu, max_file, ort_web)
        task = with_lengths(read_source(model, data), lengths)
        name = f"{task.model.name}-{passes.name}"
        limits.refuse_others([name])
        if device.npu is not None:
            read_length(lengths)  # told before the minutes that follow
            refuse_existing(out / f"{name}-npu", force=force)
        limit = limits.of(name)
        task = replace(task, model=replace(task.model, web=web))
        report = run(task.model, passes, task.data, to=to, on=device, budget=limit, out=out, force=force, tell=tell)
    if not follows:
        show_report(report, as_json)
    if not (as_json or follows):
        click.echo(f"written: {out / report.ships}, {written(out)}")
        if "," in to and not is_family(out / report.ships):
            remedy = f"edgepress export {model} --to {to} --out FOLDER"
            click.echo(f"no pass paid, so there is no family; the model as it came, in each format: {remedy}")
    if device.npu is not None and not follows:
        if report.ships != name and (out / f"{name}-npu").is_dir():
            shutil.rmtree(out / f"{name}-npu")  # --force was given, and this time no pass paid
        _fix_for(device, out / report.ships, out / f"{report.ships}-npu", lengths, force=force, quiet=as_json)
    return FITS if report.fits else MISSED


@options.example(
    "edgepress explain samples/digits/task.py --option int8 --option rank=0.5\n"
    "edgepress explain minilm --data texts.txt --layers '*.layer.0.*' --out why\n"
    "edgepress explain out/digits-int8 --provider qnn --require-unit npu=95%"
)
@click.command()
@click.argument("model")
@options.data
@click.option("--option", "options", multiple=True, default=("int8", "int4"), show_default="int8, int4", metavar="NAME",
              help="int8, static, int4, packed, rank=SHARE or cut=SHARE; may be repeated.")  # fmt: skip
@click.option("--layers", multiple=True, default=("*",), metavar="PATTERN", help="Only these; may be repeated.")
@click.option("--scored", default=3, show_default=True, type=click.IntRange(0), metavar="N",
              help="Score the N worst from exported files.")  # fmt: skip
@options.on
@click.option("--provider", "providers", multiple=True, metavar="NAME",
              help="An artifact's: qnn, openvino, xnnpack, cpu, …; in order; may be repeated.")  # fmt: skip
@click.option("--require-unit", "required", default="", metavar="UNIT=SHARE",
              help="An artifact's: exit 1 where less of the work is on it: npu=95%.")  # fmt: skip
@click.option("--predict", "probe", type=click.Path(path_type=Path), metavar="PROBE.json",
              help="Its latency on a probed device, as is and as int8 (edgepress devices probe).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write explain.json, .md, .svg and .png there.")
@options.json
@click.pass_context
def explain(
    context: click.Context, model: str, data: Path | None, options: tuple[str, ...], layers: tuple[str, ...],
    scored: int, on: str, providers: tuple[str, ...], required: str, probe: Path | None, out: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Say which layer costs accuracy, or where MODEL runs.

    Each layer is changed alone, by each option: what that costs, what it saves, and what the layer takes on the device.
    Of an artifact's folder, or a bare .onnx or .tflite file without --data, it is told which node runs on which unit:
    its share of the multiply-accumulates and of the time, why others did not take it, and what to change.
    With --predict nothing is changed or asked: the latency on a device is computed, as MODEL is and as int8 and int4.
    """
    if probe is not None:
        return _predict(context, model, data, probe, as_json)
    from ..devices.device import find_device

    device = find_device(on)
    named = [name for name in ("data", "options", "layers", "scored", "out") if is_named(context, name)]
    if is_file(model) and not named:
        return _explain_placement(Path(model), device, providers, required, as_json)
    if providers or required:
        raise click.UsageError("--provider and --require-unit are for an artifact, without the options for layers.")
    with progress(quiet=as_json) as tell, compressing():
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


def _predict(context: click.Context, model: str, data: Path | None, probe: Path, as_json: bool) -> int:
    others = {"options": "--option", "layers": "--layers", "scored": "--scored", "on": "--on", "out": "--out",
              "providers": "--provider", "required": "--require-unit"}  # fmt: skip
    given = [option for name, option in others.items() if is_named(context, name)]
    if given:
        raise click.UsageError(f"--predict computes; it goes with --data and --json, without: {', '.join(given)}.")
    with progress(quiet=as_json) as tell, compressing():
        from . import predicted

        known = predicted.read_probe(probe)
        if is_file(model):
            found = predicted.predicted(Path(model), known, tell)
        else:
            found = predicted.predicted_model(model, data, known, tell)
    click.echo(predicted.to_json(found)) if as_json else predicted.render(found)
    return FITS


def _explain_placement(path: Path, device: "Device", providers: tuple[str, ...], required: str, as_json: bool) -> int:
    with progress(quiet=as_json) as tell, compressing():
        from . import placed_text
        from .placed import misses, place_on, read_gate

        gate = read_gate(required)
        found = place_on(path, device, providers, tell)
        missed = misses(found, gate)
    title = f"{path} on {device.name}: {len(found.nodes)} nodes"
    if as_json:
        click.echo(placed_text.to_json(found, device.arch, missed), nl=False)
    else:
        placed_text.render(found, title, device.arch, missed)
    return MISSED if missed else FITS


@options.example(
    "edgepress export samples/digits/task.py --to onnx,tflite --out out/digits\n"
    "edgepress export smollm --to gguf --type Q4_K_M --data texts.txt --out q4"
)
@click.command()
@click.argument("model")
@click.option("--to", default="onnx", show_default=True, metavar="FORMAT,…",
              help="One format or several: onnx,tflite.")  # fmt: skip
@click.option("--type", "type_", default="", metavar="TYPE",
              help="GGUF: a type of llama.cpp's, as Q4_K_M; else floats as they are stored.")  # fmt: skip
@click.option("--strict", is_flag=True, help="GGUF: refuse types that a tensor's shape forces.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The artifact's folder.")
@options.data
@options.lengths
@options.webgpu
@options.max_file
@options.ort_web
@options.on
@options.force
def export(
    model: str, to: str, type_: str, strict: bool, out: Path, data: Path | None, lengths: str, webgpu: bool,
    max_file: str, ort_web: Path | None, on: str, force: bool,
) -> int:  # fmt: skip
    """Write MODEL as it is in another format, or in several.

    The artifact is a folder: the model's file, its manifest with the hashes, and golden samples. With several formats
    the folder is a family: an artifact for each, and family.json. A Hugging Face folder becomes GGUF tensor by tensor,
    in memory for one of them; --data tells llama.cpp's types which inputs matter. An .onnx file, or an artifact that
    is there already, becomes a web build as it is. For a device with an NPU, MODEL is an ONNX artifact, quantized or
    not: its free axes get the sizes of its first golden sample, or those of --lengths.
    """
    from ..devices.device import find_device
    from ..runtime.artifact import known_formats
    from ..runtime.family import write_family
    from ..runtime.files import refuse_existing

    refuse_existing(out, force=force)
    device = find_device(on)
    if device.npu is not None:
        if to != "onnx" or type_ or strict or data:
            raise click.UsageError(
                f"--on {device.name} prepares an ONNX artifact as it is; leave the other options but --lengths out."
            )
        if not is_file(model):
            raise click.UsageError(
                f"{model} is no artifact, which is what --on {device.name} prepares for its NPU; "
                f"compress --on {device.name} makes one of a model."
            )
        _fix_for(device, Path(model), out, lengths, force=force)
        return FITS
    if is_named(click.get_current_context(), "on"):
        raise click.UsageError(
            f"--on {on}: export prepares a file for an NPU, which {device.name} has not; leave it out."
        )
    with progress() as tell, compressing():
        tell("reading the model")
        from ..export.formats import EXPORTERS, export_family
        from ..export.formats import export as write
        from . import verified
        from .site import site_of
        from .source import read_source, with_lengths
        from .verify import verify

        formats, found = known_formats(to, EXPORTERS), None
        web = options.web_settings(formats, webgpu, max_file, ort_web)
        if (type_ or strict) and formats != ("gguf",):
            raise click.UsageError("--type and --strict go with --to gguf alone.")
        streams = formats == ("gguf",) and Path(model).is_dir()
        if (type_ or strict) and not streams:
            raise click.UsageError("--type and --strict are for a Hugging Face folder; else the pass ggml has them.")
        if formats == ("web",) and is_file(model):
            tell("laying the page around the model")
            artifact = site_of(Path(model), out, web, data, force=force)
            click.echo(f"written: {out} ({artifact.bytes:,} bytes of model; look at it: edgepress serve {out})")
            return FITS
        if streams:
            from .gguf_folder import convert

            artifact, words = convert(Path(model), out, type_, data, strict=strict, force=force, tell=tell)
            click.echo(f"written: {out} ({artifact.bytes:,} bytes of model)")
            click.echo(words, nl=bool(words))
            return FITS
        task = with_lengths(read_source(model, data), lengths)
        task = replace(task, model=replace(task.model, web=web))
        if formats == (to,):
            tell(f"exporting to {to}")
            sizes = f"{write(task.model, to, out, force=force).bytes:,}"
        else:
            family = export_family(task.model, formats, out, force=force, tell=tell)
            sizes = ", ".join(f"{form} {member.bytes:,}" for form, member in family.members.items())
            found = verify([family.folder(form) for form in formats], task, tell, names=formats)
            write_family(replace(family, parity=verified.to_dict(found)["parity"]))
    click.echo(f"written: {out} ({sizes} bytes of model)")
    if found is not None and not found.passed:
        verified.render(found)
        return MISSED
    return FITS


def _fix_for(device: "Device", path: Path, out: Path, lengths: str, *, force: bool, quiet: bool = False) -> None:
    """Write an artifact as a device's NPU wants it, and name what does not run there."""
    with compressing():
        from .for_npu import in_words, prepare, read_length

        fixed, lines = prepare(path, device, out, length=read_length(lengths), force=force)
    for line in lines:
        click.echo(line, err=True)
    if not quiet:
        click.echo(in_words(fixed))
