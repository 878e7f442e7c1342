"""A board for the tests: a private sshd on loopback with keys of its own, and a wire to it that can be slow, or cut."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import pytest

from edgepress.runtime.errors import DeviceError

from .loopback import Loopback

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin:" + os.environ["PATH"]) or "sshd"
# Debian's Python has no numpy; the board's is the tests' own. The engine is lent to its venv, not installed again.
_PATH = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
_LENT = {str(Path(find_spec(name).origin).parents[1]) for name in ("numpy", "onnxruntime", "flatbuffers")}  # pyright: ignore


@contextmanager
def fetching() -> Iterator[None]:
    """What is done in here needs the registries; without a network the test is skipped, and says so."""
    try:
        yield
    except DeviceError as error:
        if re.search("could not get arm64 packages|no wheels could be fetched", str(error)):
            pytest.skip(f"NOTHING CAN BE FETCHED HERE, a device cannot be set up: {error}")
        raise


@dataclass
class Wire:
    """A relay of TCP from a port of its own to another: `cut` ends all connections and refuses new ones."""

    to: int
    bytes_per_second: float | None = None
    cut_after: int | None = None
    carried: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._loopback = Loopback(self._meet)
        self.port, self.cut = self._loopback.port, self._loopback.cut

    def _meet(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self.to))
        self._loopback.open.append(far)
        for a, b in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    def _carry(self, a: socket.socket, b: socket.socket) -> None:
        with suppress(OSError):
            while piece := a.recv(16384):
                if self.bytes_per_second is not None:
                    time.sleep(len(piece) / self.bytes_per_second)
                self.carried += len(piece)
                if self.cut_after is not None and self.carried > self.cut_after:
                    self.cut()
                b.sendall(piece)
            b.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Board:
    """`sshd` on 127.0.0.1:`port`; `home` is where the tests' folders on it lie; `known` the known_hosts in force."""

    port: int
    home: Path
    known: Path
    key: str

    def address(self, folder: str = "ready", port: int | None = None) -> str:
        return f"ssh://127.0.0.1:{port or self.port}{self.home / folder}"

    def trust(self, port: int) -> None:
        """Know the board's key under another port too."""
        with self.known.open("a", encoding="utf-8") as stream:
            stream.write(f"[127.0.0.1]:{port} {self.key}\n")

    @contextmanager
    def wired(self, bytes_per_second: float | None = None) -> Iterator[Wire]:
        """A wire to the board, whose port is known."""
        wire = Wire(self.port, bytes_per_second)
        self.trust(wire.port)
        try:
            yield wire
        finally:
            wire.cut()

    def ready(self, folder: str = "ready") -> Path:
        """A folder that is set up: its venv borrows the tests' engine."""
        path = self.home / folder
        (path / "files").mkdir(parents=True)
        python = Path(sys.executable)
        command = [str(python), "-m", "venv", "--without-pip", str(path / "venv")]
        subprocess.run(command, check=True)
        (site,) = (path / "venv" / "lib").glob("python3.*/site-packages")
        (site / "lent.pth").write_text("\n".join(_LENT), encoding="utf-8")
        (path / ".edgepress").touch()
        (path / "setup.json").write_text('{"python": "venv/bin/python"}', encoding="utf-8")
        return path


@contextmanager
def running_board(
    folder: Path, *, within: Sequence[str] = (), environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Board]:
    """Start sshd, `within` another command where one is given; `ssh` on PATH then knows its key and has one for it.

    `environment` is what programs there see beside the usual. PATH takes the place of the usual one, and the user's own
    start files do not change it then.
    """
    settings = {"PATH": _PATH} | ({"HOME": str(folder)} if "PATH" in environment else {}) | dict(environment)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it where it runs as root
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'user.pub'}\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 50\nPermitRootLogin yes\n"
        f"SetEnv {' '.join(f'{name}={value}' for name, value in settings.items())}\n",
        encoding="utf-8",
    )
    key = (folder / "host.pub").read_text(encoding="utf-8").strip()
    board = Board(port, folder / "home", folder / "known_hosts", key)
    board.home.mkdir()
    board.trust(port)
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {board.known}\n"
        "  GlobalKnownHostsFile /dev/null\n",
        encoding="utf-8",
    )
    (folder / "bin").mkdir()
    script = folder / "bin" / "ssh"
    script.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    log = (folder / "log").open("w")
    server = subprocess.Popen([*within, SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    try:
        _wait_for(port, server, folder / "log")
        yield board
    finally:
        patch.undo()
        server.terminate()
        server.wait(10)
        log.close()


def processes(mark: str | Path) -> list[str]:
    """The command lines of all processes that name `mark`, but for our own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(mark) in line and path.parent.name != str(os.getpid()):
                found.append(line)
    return found


def none_left(mark: str | Path, seconds: float = 10) -> bool:
    """True as soon as no process names `mark`."""
    end = time.monotonic() + seconds
    while processes(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        assert server.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < end
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
