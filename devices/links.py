"""Links: how a file reaches a device, and how a program runs there."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..runtime.errors import DeviceError, UnknownName


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
        """Drop the connection, and what was brought to the device."""
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
        command = [sys.executable, "-P", *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise DeviceError(f"no answer from this machine in {timeout:g} s; the program was ended") from error
            except BaseException:  # Ctrl-C too: no process is left behind
                process.kill()
                process.wait()  # on Ctrl-C the end of `with` waits for a quarter of a second only
                raise
        if process.returncode:
            raise DeviceError(_why(process.returncode, errors))
        return output

    def close(self) -> None:
        """Nothing to drop."""


# Scheme of an address -> what opens it: Link(address).
LINKS: dict[str, Callable[[str], Link]] = {"local": Local}


def connect(address: str) -> Link:
    """Open the link of an address: `local`, later `ssh://pi@10.0.0.7`. Raises UnknownName for another scheme."""
    scheme = address.partition("://")[0]
    if scheme not in LINKS:
        raise UnknownName("link", scheme, LINKS)
    return LINKS[scheme](address)


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"the program was killed by signal {-code} on this machine; is the memory enough?"
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"the program ended with exit code {code} and said nothing"
