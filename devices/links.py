"""Links: how a file reaches a device, and how a program runs there."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..runtime.errors import DeviceError, UnknownName
from .adb import open_adb
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


@dataclass(frozen=True)
class InBrowser:
    """A browser on this machine: files stay where they are, and a bench in a fresh process drives a fresh browser."""

    address: str = "browser"

    def put(self, local: Path) -> str:
        """The path itself."""
        return Local().put(local)

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Run the browser's own program in place of the runtime's. Raises DeviceError for one that it has not."""
        program = _IN_BROWSER.get(arguments[1] if arguments[:1] == ["-m"] else "")
        if program is None:
            raise DeviceError(f"a browser does not run {' '.join(arguments[:2])}; it runs: {', '.join(_IN_BROWSER)}")
        return Local().run(["-m", program, *arguments[2:]], timeout)

    def close(self) -> None:
        """Nothing to drop: each browser ends with its program."""


# A program of the runtime -> the one that does the same in a browser, with the same arguments and answers.
_IN_BROWSER = {"edgepress.runtime.bench": "edgepress.devices.browser_bench"}

# Scheme of an address -> what opens it.
LINKS: dict[str, Callable[[str], Link]] = {
    "local": Local,
    "browser": InBrowser,
    "ssh": open_board,
    "emu": open_emulated,
    "adb": open_adb,
}


def connect(address: str) -> Link:
    """Open the link of an address: `local`, `ssh://pi@10.0.0.7`, `emu://pi5`. Raises UnknownName for another scheme."""
    scheme = address.partition("://")[0]
    if scheme not in LINKS:
        raise UnknownName("link", scheme, LINKS)
    return LINKS[scheme](address)
