"""The commands that list what there is: recipes, doctor."""

import click

from . import cli_options as options
from .cli_options import FITS


@options.example("edgepress recipes\nedgepress compress MODEL --recipe my.toml")
@click.command()
@options.json
def recipes(as_json: bool) -> int:
    """List the recipes: what each is for, and its passes."""
    from . import show
    from .recipe import recipe_names, recipe_table

    tables = {name: recipe_table(name) for name in recipe_names()}
    click.echo(show.as_json(tables)) if as_json else show.recipes(tables)
    return FITS


@options.example("edgepress doctor")
@click.command()
@options.json
def doctor(as_json: bool) -> int:
    """Say what is installed, and the line that installs the rest."""
    from . import show
    from .doctor import examine

    found = examine()
    click.echo(show.as_json(found)) if as_json else show.doctor(found)
    return FITS
