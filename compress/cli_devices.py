"""The commands about devices: what there is, and what one needs."""

import click

from . import cli_options as options
from .cli_options import FITS
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
    "edgepress devices setup ssh://pi@raspberrypi.local --clean"
)
@devices.command()
@click.argument("address")
@click.option(
    "--engine", default="onnx", show_default=True, metavar="FORMAT", help="The engine's format: onnx, tflite."
)
@click.option("--offline", is_flag=True, help="Fetch the wheels here and send them; the device's pip is not asked.")
@click.option("--clean", is_flag=True, help="Remove all that edgepress has there.")
@options.json
def setup(address: str, engine: str, offline: bool, clean: bool, as_json: bool) -> int:
    """Put what ADDRESS needs into a folder of its own there.

    ADDRESS is ssh://user@host, with :port and /folder where they are others (the folder is ~/.edgepress), or emu://pi4
    or emu://pi5, whose arm64 Python lies in the cache folder of this user. Nothing outside that folder is changed.
    adb://SERIAL needs no setup; --clean removes what was sent there.
    """
    from ..devices import setup as devices_setup
    from . import show

    if clean and (offline or engine != "onnx"):
        raise click.UsageError("--clean removes; it goes with no other option.")
    if clean:
        devices_setup.clean(address)
        click.echo(f"removed: what edgepress had on {address}")
        return FITS
    with progress(quiet=as_json) as tell:
        installed = devices_setup.set_up(address, engine=engine, offline=offline, tell=tell)
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    click.echo(show.as_json(installed) if as_json else f"ready: {address} ({versions})")
    return FITS
