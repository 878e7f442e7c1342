"""The commands about devices: what there is, what one needs, and how fast it is."""

from dataclasses import replace
from pathlib import Path

import click

from . import cli_options as options
from .cli_options import FITS, compressing
from .terminal import Commands, progress


@options.example("edgepress devices\nedgepress devices setup ssh://pi@raspberrypi.local\nedgepress report out --on pi5")
@click.group(cls=Commands, invoke_without_command=True)
@options.json
@click.pass_context
def devices(context: click.Context, as_json: bool) -> int:
    """List the devices that a model is made for and measured on."""
    from dataclasses import asdict

    from ..devices.device import device_names, find_device
    from . import show

    if context.invoked_subcommand is None:
        found = {name: asdict(find_device(name)) for name in device_names()}
        click.echo(show.as_json(found)) if as_json else show.devices(found)
    return FITS


@options.example(
    "edgepress devices setup ssh://pi@raspberrypi.local\nedgepress devices setup emu://pi5\n"
    "edgepress devices setup ssh://127.0.0.1:8022 --own-packages\n"
    "edgepress devices setup ssh://pi@raspberrypi.local --clean"
)
@devices.command()
@click.argument("address")
@click.option(
    "--engine", default="onnx", show_default=True, metavar="FORMAT", help="The engine's format: onnx, tflite."
)
@click.option("--offline", is_flag=True, help="Fetch the wheels here and send them; the device's pip is not asked.")
@click.option(
    "--own-packages", is_flag=True, help="Install nothing: NumPy and the engine that are there already serve."
)
@click.option("--clean", is_flag=True, help="Remove all that edgepress has there.")
@options.json
def setup(address: str, engine: str, offline: bool, own_packages: bool, clean: bool, as_json: bool) -> int:
    """Put what ADDRESS needs into a folder of its own there.

    ADDRESS is ssh://user@host, with :port and /folder where they are others (the folder is ~/.edgepress), or emu://pi4
    or emu://pi5, whose arm64 Python lies in the cache folder of this user. Nothing outside that folder is changed.
    Where the engines have no wheels, as on Android under Termux, or special ones: --own-packages.
    adb://SERIAL needs no setup; --clean removes what was sent there.
    """
    from ..devices import setup as devices_setup
    from . import show

    if clean and (offline or own_packages or engine != "onnx"):
        raise click.UsageError("--clean removes; it goes with no other option.")
    if own_packages and offline:
        raise click.UsageError("--own-packages installs nothing; it goes without --offline.")
    if clean:
        devices_setup.clean(address)
        click.echo(f"removed: what edgepress had on {address}")
        return FITS
    with progress(quiet=as_json) as tell:
        installed = devices_setup.set_up(address, engine=engine, offline=offline, own_packages=own_packages, tell=tell)
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    click.echo(show.as_json(installed) if as_json else f"ready: {address} ({versions})")
    return FITS


@options.example(
    "edgepress devices probe --threads 1 --out host.json\n"
    "edgepress devices probe ssh://pi@raspberrypi.local --out pi5.json\n"
    "edgepress explain out/digits-fp32 --predict pi5.json"
)
@devices.command()
@click.argument("address", default="host")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The probe's file.")
@click.option("--seconds", default=30.0, show_default=True, metavar="S", help="How long, about.")
@options.threads
def probe(address: str, out: Path, seconds: float, threads: int | None) -> int:
    """Measure how fast a device computes, once.

    Small products and convolutions in float32, int8 and int4, and its memory: what `explain --predict` computes the
    latency of a model from, before it is quantized for ADDRESS. A probe is of one count of threads.
    """
    from ..devices.device import find_device
    from ..runtime.files import write_text
    from ..runtime.probe import to_json

    device = find_device(address)
    with progress(quiet=False) as tell, compressing():
        from .probing import probe_on, refuse_foreign

        refuse_foreign(out)
        found = probe_on(device if threads is None else replace(device, threads=threads), seconds=seconds, tell=tell)
    write_text(out, to_json(found) + "\n")
    click.echo(f"written: {out} ({len(found.points)} kernels on {found.machine.cpu})")
    return FITS
