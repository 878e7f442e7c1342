"""The command of a web build: serve."""

from pathlib import Path

import click

from . import cli_options as options
from .cli_options import FITS


@options.example("edgepress export samples/digits/task.py --to web --out site\nedgepress serve site")
@click.command()
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), metavar="N",
              help="0 takes any that is free.")  # fmt: skip
def serve(site: Path, port: int) -> int:
    """Show SITE in a browser: on this machine alone, until Ctrl-C.

    SITE is a folder that was written with --to web. Any file host can serve it as well; here it has the headers that
    threads need from the first visit on.
    """
    from ..devices.serve import LOOPBACK, server
    from ..runtime.artifact import read_artifact
    from ..runtime.errors import UsageError

    found = read_artifact(site)
    if found.format != "web":
        raise UsageError(f"{site} is in the format {found.format}; expected a web build: export it with --to web")
    with server({"": site}, port) as running:
        click.echo(f"http://{LOOPBACK}:{running.server_address[1]}/  (Ctrl-C ends it)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            click.echo()
    return FITS
