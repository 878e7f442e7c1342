"""Setup: what a device needs, put into one folder there: a virtual environment with NumPy and one engine.

The device's own pip installs it where there is a network; else the wheels are fetched here, for its Python, its
processor and its C library, sent, and unpacked. The engine has the version that it has here, so that both compute with
the same code. The runtime is not installed: it travels with each connection (see `board`), and is never another one.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtime.errors import DeviceError, UnknownName, UsageError
from ..runtime.program import answered
from . import adb
from .board import Board, send
from .debian import make_root
from .emulated import BOARDS, SCHEME, add_boards, emulation_folder, emulator, open_emulated
from .links import Link
from .payload import files_of, runtime_files
from .process import call, last_line
from .ssh import GUARDED, Shell, open_shell

Tell = Callable[[str], None]

# Format -> the distribution of its engine, and the module to try. llama.cpp's has no wheels: it is built on the device.
ENGINE_WHEELS = {"onnx": ("onnxruntime", "onnxruntime"), "tflite": ("ai-edge-litert", "ai_edge_litert.interpreter")}
_INSTALL_S, _TRY_S = 1800.0, 300.0
_LEAST_PYTHON = (3, 11)

# The system's own Python, or where that is too old one that stands beside it.
_PROBE = """
for python in python3 python3.14 python3.13 python3.12 python3.11; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  python=python3
done
"$python" -c '
import json, os, platform, struct, sys
libc = platform.libc_ver()
print(json.dumps({"python": sys.executable, "version": sys.version_info[:2], "bits": 8 * struct.calcsize("P"),
                  "arch": platform.machine(), "libc": libc[0], "libc_version": libc[1]}))'
"""

_WITH_PIP = (
    GUARDED
    + """
seconds=$1; python=$2; shift 2; rm -rf venv setup.json
guarded "$seconds" "$python" -m venv venv >&2 &&
  guarded "$seconds" venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@" >&2 &&
  exit
rm -rf venv; exit 1
"""
)

_WITH_WHEELS = (
    GUARDED
    + """
seconds=$1; python=$2; wheels=$3; rm -rf venv setup.json
unpack() {
  guarded "$seconds" "$python" -m venv --without-pip venv || return
  site=$(echo venv/lib/python3*/site-packages)
  for wheel in "$wheels"/*.whl; do guarded "$seconds" "$python" -m zipfile -e "$wheel" "$site" || return; done
}
unpack >&2 && rm -rf "$wheels" && exit
rm -rf venv "$wheels"; exit 1
"""
)


@dataclass(frozen=True)
class Target:
    """The Python of a device, as far as a wheel must fit it. `glibc` is its minor version: 36 for 2.36."""

    python: str
    version: tuple[int, int]
    arch: str
    glibc: int


def set_up(address: str, *, engine: str = "onnx", offline: bool = False, tell: Tell) -> dict[str, Any]:
    """Set a device up, or anew; returns what is installed there: versions by name.

    `ssh://…` makes a virtual environment in the device's folder, `emu://…` an arm64 root in the user's cache folder.
    With `offline` the device's own pip is not asked. Raises DeviceError where that fails: nothing half stays there.
    UsageError for an address that cannot be set up, UnknownName for an engine.

    >>> set_up("ssh://pi@raspberrypi.local", tell=print)["onnxruntime"]
    '1.32.0'
    """
    if engine not in ENGINE_WHEELS:
        raise UnknownName("engine with wheels", engine, ENGINE_WHEELS)
    scheme, _, board = address.partition("://")
    if scheme == SCHEME:
        return _set_up_emulation(board, engine, tell)
    if scheme == adb.SCHEME:
        serial = adb.read_address(address).serial
        raise UsageError(f"an Android device needs no setup; name the benchmark: adb://{serial}?benchmark=PATH")
    if scheme != "ssh":
        raise UsageError(f"{address!r} needs no setup, or has none; set up ssh://user@host or emu://pi5")
    shell = open_shell(address, "setup")
    try:
        return _set_up_board(shell, engine, offline, tell)
    except BaseException:
        with suppress(DeviceError):  # where the link is lost, the device itself removes what was begun
            _remove(shell)
        raise
    finally:
        shell.close()


def clean(address: str) -> None:
    """Remove all that edgepress has on a device: its folder. Raises DeviceError where that holds other files."""
    scheme = address.partition("://")[0]
    if scheme == SCHEME:
        shutil.rmtree(emulation_folder(), ignore_errors=True)
        return
    if scheme == adb.SCHEME:
        adb.read_address(address).clean()
        return
    if scheme != "ssh":
        raise UsageError(f"{address!r} has nothing to clean; name ssh://user@host or emu://pi5")
    shell = open_shell(address, "clean")
    try:
        _remove(shell)
    finally:
        shell.close()


def fetch_wheels(target: Target, requirements: list[str], folder: Path) -> None:
    """Download wheels that fit `target`, with what they need. Raises DeviceError where there are none."""
    major, minor = target.version
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--implementation", "cp"]
    command += ["--python-version", f"{major}.{minor}"]
    for glibc in range(target.glibc, 16, -1):
        command += ["--platform", f"manylinux_2_{glibc}_{target.arch}"]
    command += ["--platform", f"manylinux2014_{target.arch}"]
    done = call([*command, *requirements], None)  # pip gives up by itself where nothing comes
    if done.code:
        what = f"{', '.join(requirements)} for Python {major}.{minor} on {target.arch}"
        raise DeviceError(f"no wheels could be fetched here of {what}: {_pip_reason(done.errors) or last_line(done)}")


def read_target(said: str, host: str) -> Target:
    """What the probe printed, as a Target. Raises DeviceError where no engine has wheels for such a device."""
    try:
        told = json.loads(said)
        version_ = (told["version"][0], told["version"][1])
        bits, libc, arch = told["bits"], told["libc"], told["arch"]
        glibc = int(told["libc_version"].partition(".")[2] or 0) if libc == "glibc" else 0
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DeviceError(f"{host} has no Python 3; there: sudo apt-get install python3 python3-venv") from error
    if bits != 64:
        seen = f"{host} runs a {bits}-bit system ({arch}), for which the engines have no wheels"
        raise DeviceError(f"{seen}; install a 64-bit one, as Raspberry Pi OS (64-bit)")
    if version_ < _LEAST_PYTHON:
        seen = f"{host} has Python {version_[0]}.{version_[1]}, edgepress needs 3.11 or newer"
        raise DeviceError(f"{seen}; Raspberry Pi OS has it from 12 (bookworm) on")
    if not glibc:
        raise DeviceError(f"{host} has {libc or 'no glibc'} as its C library; the engines' wheels need glibc")
    return Target(told["python"], version_, arch, glibc)


def _set_up_board(shell: Shell, engine: str, offline: bool, tell: Tell) -> dict[str, Any]:
    host = shell.place.target
    tell(f"asking {host} what it is")
    target = read_target(_probe(shell), host)
    requirements = _requirements(engine)
    if not offline:
        tell(f"installing {', '.join(requirements)} there, by its own pip")
        try:
            shell.sh(_WITH_PIP, f"{_INSTALL_S:g}", target.python, *requirements, timeout=_INSTALL_S)
        except DeviceError as error:
            shell.sh("true", timeout=60.0)  # raises where it is the link that failed
            tell(f"its pip could not ({error}); wheels from here")
            offline = True
    if offline:
        with tempfile.TemporaryDirectory() as folder:
            wheels = Path(folder) / "wheels"
            tell(f"fetching {', '.join(requirements)} here, for Python {target.version[1]} on {target.arch}")
            fetch_wheels(target, requirements, wheels)
            tell(f"sending {sum(file.stat().st_size for file in wheels.iterdir()) / 1e6:.0f} MB to {host}")
            there = f"{send(shell, files_of(wheels))}/wheels"
        tell("unpacking them there")
        shell.sh(_WITH_WHEELS, f"{_INSTALL_S:g}", target.python, there, timeout=_INSTALL_S)
    installed = _try(Board(shell, send(shell, runtime_files())), engine)
    record = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "engine": engine, "installed": installed}
    shell.sh('echo "$1" > .setup.part && mv .setup.part setup.json', json.dumps(record), timeout=60.0)
    return installed


def _probe(shell: Shell) -> str:
    try:
        return shell.sh(_PROBE, timeout=60.0)
    except DeviceError as error:
        if "python3" in str(error):  # sh's: not found
            return ""
        raise


def _remove(shell: Shell) -> None:
    shell.sh('folder=$PWD; cd / && rm -rf -- "$folder"', timeout=120.0)


def _set_up_emulation(board: str, engine: str, tell: Tell) -> dict[str, Any]:
    if board not in BOARDS:
        raise UnknownName("emulated board", board, BOARDS)
    if engine != "onnx":
        raise UnknownName("engine of an emulated board", engine, ("onnx",))
    emulator(board, emulation_folder() / "arm64")  # no qemu: told before anything is fetched
    requirements = _requirements(engine)

    def add_wheels(root: Path, version_: tuple[int, int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tell(f"fetching {', '.join(requirements)} for Python {version_[0]}.{version_[1]} on aarch64")
            fetch_wheels(Target("", version_, "aarch64", 28), requirements, Path(folder))
            for wheel in Path(folder).glob("*.whl"):
                shutil.unpack_archive(wheel, root / "wheels", "zip")
        add_boards(root)

    make_root(emulation_folder() / "arm64", add_wheels, tell)
    tell("starting it")
    return _try(open_emulated(f"{SCHEME}://{board}"), engine)


def _try(link: Link, engine: str) -> dict[str, Any]:
    """Import the engine on the device; returns the versions of what is there. Raises DeviceError where it fails."""
    link.run(["-c", f"import numpy, {ENGINE_WHEELS[engine][1]}"], _TRY_S)
    told = json.loads(answered(link.run(["-m", "edgepress.runtime.about"], _TRY_S)))
    return {"python": told["machine"]["python"], **told["versions"]}


def _requirements(engine: str) -> list[str]:
    """The engine in the version that judges here, so that both sides compute with the same code."""
    name = ENGINE_WHEELS[engine][0]
    try:
        return ["numpy", f"{name}=={version(name)}"]
    except PackageNotFoundError:
        return ["numpy", name]


def _pip_reason(errors: str) -> str:
    """The first of pip's errors: the last line is about something else."""
    return next((line.removeprefix("ERROR: ") for line in errors.splitlines() if line.startswith("ERROR: ")), "")
