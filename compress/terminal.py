"""The terminal: progress on stderr, and whatever went wrong in one line."""

import errno
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

# Seconds between two lines about the same, where lines stay.
_OFTEN = 5.0

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Commands(click.Group):
    """click's commands; an unknown one is answered with those there are."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Raises UnknownName."""
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing:  # a shell that completes asks for half a name
            from ..runtime.errors import UnknownName

            raise UnknownName("command", cmd_name, self.commands)
        return command


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: a line that moves in a terminal, a line a step elsewhere.

    >>> with progress() as tell:
    ...     tell("reading the model")
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, quiet=quiet)
    if not console.is_interactive:
        told: dict[str, float] = {}

        def tell(text: str) -> None:
            about, now = text.partition(" of ")[0], time.monotonic()
            if now - told.get(about, -_OFTEN) >= _OFTEN:  # an epoch has hundreds of lines: step 1 of 640, step 2 of 640
                told[about] = now
                console.print(Text(text), soft_wrap=True)

        yield tell
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text, overflow="ellipsis", no_wrap=True))


def say(text: str) -> None:
    """A line on stderr."""
    click.echo(f"edgepress: {text}", err=True)


def usage(error: click.ClickException) -> str:
    """What is wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    return f"{error.format_message()} See: {context.command_path if context else 'edgepress'} --help"


def fault(error: Exception) -> str:
    """What went wrong, in one line: what was seen, and what to do."""
    from ..runtime.errors import EdgepressError

    if isinstance(error, EdgepressError):
        return str(error)
    if isinstance(error, OSError):
        remedy = "free space or name another place" if error.errno in _NO_SPACE else "check the path and its rights"
        return f"{error.strerror or error}: {error.filename or 'while writing'}; {remedy}"
    if isinstance(error, MemoryError):
        return "the memory is not enough; close other programs, or take a machine with more"
    reason = next(iter(str(error).splitlines()), "")
    return f"internal error, please report it: {type(error).__name__}: {reason}; edgepress --debug shows the traceback"


def write_anyway() -> None:
    """Let a terminal that has no dashes and lines show question marks in their place, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
