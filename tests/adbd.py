"""A small adbd for the tests: what a phone says over TCP, so that the real adb client has one to talk to.

Protocol: packages/modules/adb/protocol.txt and SYNC.TXT of Android. It offers no features, as old devices do: `shell:`
and `exec:` without exit codes, and `sync:` with STAT, SEND and RECV. What names /data/local/tmp goes to a folder here.
"""

import os
import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from .loopback import Loopback

TMP = "/data/local/tmp"
_VERSION, _MOST = 0x01000001, 65536  # from this version on nobody adds up checksums

_GETPROP = """#!/bin/sh
case $1 in
  ro.product.manufacturer) echo Google;; ro.product.model) echo Pixel 8;; ro.soc.model) echo Tensor G3;;
  ro.product.cpu.abi) echo arm64-v8a;; ro.build.version.release) echo 14;;
esac
"""


@dataclass
class Adbd:
    """One device. `manners` is device, unauthorized or silent; `space` the bytes that it still takes."""

    root: Path
    manners: str = "device"
    space: int | None = None
    cut_after: int | None = None
    received: int = 0

    def __post_init__(self) -> None:
        self._loopback = Loopback(self._meet)
        self.serial, self.cut = f"127.0.0.1:{self._loopback.port}", self._loopback.cut
        (self.root / "bin").mkdir(parents=True)
        (self.root / "tmp").mkdir()
        (self.root / "bin" / "getprop").write_text(_GETPROP, encoding="utf-8")
        (self.root / "bin" / "getprop").chmod(0o755)

    @property
    def folder(self) -> Path:
        """Where edgepress's folder lies."""
        return self.root / "tmp" / "edgepress"

    def here(self, text: str) -> str:
        return text.replace(TMP, str(self.root / "tmp"))

    def _meet(self, peer: socket.socket) -> None:
        threading.Thread(target=_Transport(self, peer).serve, daemon=True).start()


class _Transport:
    """One connection: packets, and the streams in them by our number."""

    def __init__(self, adbd: Adbd, peer: socket.socket) -> None:
        self.adbd, self.peer, self.streams, self.lock = adbd, peer, dict[int, _Stream](), threading.Lock()

    def send(self, command: bytes, a: int, b: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        with self.lock:
            self.peer.sendall(struct.pack("<4s5I", command, a, b, len(data), sum(data), number ^ 0xFFFFFFFF) + data)

    def serve(self) -> None:
        with suppress(OSError, EOFError), self.peer.makefile("rb") as source:
            while True:
                command, a, b, size, _, _ = struct.unpack("<4s5I", _exactly(source, 24))
                self.take(command, a, b, _exactly(source, size))

    def take(self, command: bytes, a: int, b: int, data: bytes) -> None:
        if command in (b"CNXN", b"AUTH") and self.adbd.manners != "silent":
            if self.adbd.manners == "unauthorized":
                self.send(b"AUTH", 1, 0, bytes(20))
            else:
                self.send(b"CNXN", _VERSION, _MOST, b"device::ro.product.model=Pixel 8;\0")
        elif command == b"OPEN":
            mine = len(self.streams) + 1
            self.streams[mine] = stream = _Stream(self, mine, a)
            self.send(b"OKAY", mine, a)
            threading.Thread(target=stream.serve, args=(data.rstrip(b"\0").decode(),), daemon=True).start()
        elif command == b"WRTE":
            self.streams[b].arrived.put(data)
            self.send(b"OKAY", b, a)
        elif command == b"OKAY":
            self.streams[b].ready.set()
        elif command == b"CLSE" and b in self.streams:
            self.streams[b].arrived.put(b"")
            self.streams[b].ready.set()


class _Stream:
    """One service under way: `write` waits until the other side took it."""

    def __init__(self, transport: _Transport, mine: int, theirs: int) -> None:
        self.transport, self.mine, self.theirs = transport, mine, theirs
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.ready, self.rest = threading.Event(), b""

    def serve(self, service: str) -> None:
        kind, _, line = service.partition(":")
        with suppress(OSError, EOFError):
            self.files() if kind == "sync" else self.command(line)
            self.transport.send(b"CLSE", self.mine, self.theirs)

    def write(self, data: bytes) -> None:
        self.ready.clear()
        self.transport.send(b"WRTE", self.mine, self.theirs, data)
        self.ready.wait()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            piece = self.arrived.get()
            if not piece:
                raise EOFError
            self.rest += piece
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def command(self, line: str) -> None:
        root = self.transport.adbd.root
        path = f"{root / 'bin'}:{os.environ['PATH']}"
        command = ["sh", "-c", self.transport.adbd.here(line)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=root,
            env={"PATH": path},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            while piece := os.read(process.stdout.fileno(), 4096):
                self.write(piece)

    def files(self) -> None:
        while True:
            what, size = struct.unpack("<4sI", self.read(8))
            if what == b"QUIT":
                return
            name = self.transport.adbd.here(self.read(size).decode())
            if what == b"STAT":
                self.write(b"STAT" + _status(Path(name)))
            elif what == b"SEND":
                reason = self.take(Path(name.rpartition(",")[0])).encode()
                self.write(struct.pack("<4sI", b"FAIL" if reason else b"OKAY", len(reason)) + reason)
            elif what == b"RECV":
                data = Path(name).read_bytes()
                for start in range(0, len(data), _MOST // 2):
                    piece = data[start : start + _MOST // 2]
                    self.write(struct.pack("<4sI", b"DATA", len(piece)) + piece)
                self.write(struct.pack("<4sI", b"DONE", 0))

    def take(self, path: Path) -> str:
        """Take a file; returns why that failed, or ""."""
        adbd, reason = self.transport.adbd, ""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            while True:
                what, size = struct.unpack("<4sI", self.read(8))
                if what == b"DONE":  # `size` is the time of the last change
                    return reason
                stream.write(self.read(size))
                adbd.received += size
                if adbd.cut_after is not None and adbd.received > adbd.cut_after:
                    adbd.cut()
                if adbd.space is not None and adbd.received > adbd.space:
                    reason = "write failed: No space left on device"


def _status(path: Path) -> bytes:
    if not path.exists():
        return bytes(12)
    found = path.stat()
    return struct.pack("<3I", found.st_mode, found.st_size, int(found.st_mtime))


def _exactly(source, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


@contextmanager
def adb_server(home: Path) -> Iterator[None]:
    """An adb server of the tests' own: its port and its keys are nobody else's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    for name, value in (("HOME", str(home)), ("ANDROID_ADB_SERVER_PORT", str(port)), ("ADB_MDNS", "0")):
        patch.setenv(name, value)
    try:
        adb("start-server")
        yield
    finally:
        adb("kill-server")
        patch.undo()


@contextmanager
def running_adbd(root: Path, manners: str = "device") -> Iterator[Adbd]:
    """A device that the server is connected with."""
    adbd = Adbd(root, manners)
    try:
        adb("connect", adbd.serial)
        yield adbd
    finally:
        adb("disconnect", adbd.serial)
        adbd.cut()


def adb(*arguments: str) -> str:
    done = subprocess.run(["adb", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr
