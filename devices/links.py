"""Links: how a file reaches a device, and how a program runs there."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        pipe = subprocess.PIPE
        with (
            _holding_ctrl_c() as release,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process,
        ):
            try:
                release()
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

# Scheme of an address -> what opens it: Link(address).
LINKS: dict[str, Callable[[str], Link]] = {"browser": InBrowser, "local": Local}


def connect(address: str) -> Link:
    """Open the link of an address: `local`, later `ssh://pi@10.0.0.7`. Raises UnknownName for another scheme."""
    scheme = address.partition("://")[0]
    if scheme not in LINKS:
        raise UnknownName("link", scheme, LINKS)
    return LINKS[scheme](address)


@contextmanager
def _holding_ctrl_c() -> Iterator[Callable[[], None]]:
    """Until `release` is called Ctrl-C waits: it must not come while a process is started that nobody knows of yet."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number)) or signal.default_int_handler

    def release() -> None:
        signal.signal(signal.SIGINT, usual)
        if pressed and usual is not signal.SIG_IGN:
            raise KeyboardInterrupt

    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, usual)


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"the program was killed by signal {-code} on this machine; is the memory enough?"
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"the program ended with exit code {code} and said nothing"
