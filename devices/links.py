"""Links: how a file reaches a device, and how a program runs there."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..runtime.errors import DeviceError, UnknownName
from .board import open_board
from .emulated import open_emulated
from .process import call, last_line


class Link(Protocol):
    """A connection to one device."""

    def put(self, local: Path) -> str:
        """Bring a file or folder to the device; returns its path there."""
        ...

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Run the device's Python with `arguments` in a fresh process; returns what it printed.

        `timeout` is in seconds. Raises DeviceError with the last line of stderr where the program fails, or where it
        does not end in time; nothing keeps running then.
        """
        ...

    def close(self) -> None:
        """Drop the connection. What was brought stays in the device's folder, where a second push finds it."""
        ...


@dataclass(frozen=True)
class Local:
    """This machine: files stay where they are, programs run in fresh processes of the same Python."""

    address: str = "local"

    def put(self, local: Path) -> str:
        """The path itself."""
        return str(local.resolve())

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Run this Python with `arguments`, without the current folder on its path."""
        try:
            done = call([sys.executable, "-P", *arguments], timeout)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"no answer from this machine in {timeout:g} s; the program was ended") from error
        if done.code < 0:
            raise DeviceError(f"the program was killed by signal {-done.code} on this machine; is the memory enough?")
        if done.code:
            raise DeviceError(last_line(done))
        return done.output

    def close(self) -> None:
        """Nothing to drop."""


# Scheme of an address -> what opens it.
LINKS: dict[str, Callable[[str], Link]] = {"local": Local, "ssh": open_board, "emu": open_emulated}


def connect(address: str) -> Link:
    """Open the link of an address: `local`, `ssh://pi@10.0.0.7`, `emu://pi5`. Raises UnknownName for another scheme."""
    scheme = address.partition("://")[0]
    if scheme not in LINKS:
        raise UnknownName("link", scheme, LINKS)
    return LINKS[scheme](address)
