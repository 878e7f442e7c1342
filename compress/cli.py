"""The command line: parse, call one function, print. It decides nothing."""

import atexit
import gc
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from .cli_devices import devices
from .cli_lists import doctor, recipes
from .cli_look import inspect, report, run, verify
from .cli_make import compress, explain, export
from .cli_options import FITS, INTERRUPTED, UNREAD, WRONG
from .cli_web import serve
from .terminal import Commands, fault, say, usage, write_anyway


@dataclass
class _Asked:
    """What stands before the command's name; `main` reads it when the command has failed."""

    debug: bool = False
    command: str = ""


# What Ctrl-C leaves of a command that keeps finished work.
_KEEPS = {"compress": "; what is finished is kept, the same command goes on from there"}


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
    context.obj.debug, context.obj.command = debug, context.invoked_subcommand or ""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return WRONG
    return FITS


for command in (compress, explain, export, run, report, verify, inspect, serve, recipes, devices, doctor):
    cli.add_command(command)


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
        say(f"interrupted{_KEEPS.get(asked.command, '')}")
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
