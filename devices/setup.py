"""Setup: what a device needs, put into one folder there: a virtual environment with NumPy and one engine.

The device's own pip installs it where there is a network; else the wheels are fetched here, for its Python, its
processor and its C library, sent, and unpacked. The engine has the version that it has here, so that both compute with
the same code. Where it has no wheels (Android, musl), or others (Jetson), the device's own packages may serve, and
nothing is installed. The runtime never is: it travels with each connection (see `board`), and is never another one.

`setup.json` names the Python that has the engine. An environment is made beside the one that stands there, tried, and
named by one rename at the end: a setup that fails, or is cut, leaves the one before as it was.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
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
from .ssh import GUARDED, TIDY, Shell, open_shell
from .wheels import ENGINE_WHEELS, Target, fetch_wheels, read_target, requirements

Tell = Callable[[str], None]

_INSTALL_S, _TRY_S = 1800.0, 300.0

# The system's own Python, or where that is too old one that stands beside it. By its own name, not by that of a shim,
# which would be timed with it; unless it starts by the shim alone.
_PROBE = """
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  name=python3
done
python=$(command -v "$name") || exit 0
itself=$("$python" -c 'import sys; print(sys.executable)') && "$itself" -c '' 2>/dev/null && python=$itself
exec "$python" -c '
import json, platform, struct, sys
libc = platform.libc_ver()
print(json.dumps({"python": sys.argv[1], "version": sys.version_info[:2], "bits": 8 * struct.calcsize("P"),
                  "arch": platform.machine(), "libc": libc[0], "libc_version": libc[1]}))' "$python"
"""

_WITH_PIP = (
    GUARDED
    + TIDY
    + """
seconds=$1; python=$2; venv=$3; shift 3
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
guarded "$seconds" "$python" -m venv "$venv" >&2 &&
  guarded "$seconds" "$venv/bin/python" -m pip install --only-binary=:all: "$@" >&2 && exit
removed "$venv"; exit 1
"""
)

_WITH_WHEELS = (
    GUARDED
    + TIDY
    + """
seconds=$1; python=$2; venv=$3; sent=$4
unpack() {
  guarded "$seconds" "$python" -m venv --without-pip "$venv" || return
  site=$(echo "$venv"/lib/python3*/site-packages)
  for wheel in "$sent"/*/*.whl; do guarded "$seconds" "$python" -m zipfile -e "$wheel" "$site" || return; done
}
unpack >&2 && rm -rf "$sent" && exit
removed "$venv"; rm -rf "$sent"; exit 1
"""
)

# The rename is what sets the device up. Not `echo`: some take the backslashes of JSON for their own.
_NAME = f"""{TIDY}
printf '%s\\n' "$1" > .setup.part && mv -f .setup.part setup.json && tidy
"""


def set_up(
    address: str, *, engine: str = "onnx", offline: bool = False, own_packages: bool = False, tell: Tell
) -> dict[str, Any]:
    """Set a device up, or anew; returns what is installed there: versions by name.

    `ssh://…` makes a virtual environment in the device's folder, `emu://…` an arm64 root in the user's cache folder.
    With `offline` the device's own pip is not asked; with `own_packages` nothing is installed, and the engine that its
    Python has serves. Raises DeviceError where that fails: an earlier setup stays as it was then, and nothing half.
    UsageError for an address that cannot be set up, UnknownName for an engine.

    >>> set_up("ssh://pi@raspberrypi.local", tell=print)["onnxruntime"]
    '1.32.0'
    """
    if engine not in ENGINE_WHEELS:
        raise UnknownName("engine with wheels", engine, ENGINE_WHEELS)
    scheme, _, board = address.partition("://")
    if own_packages and scheme != "ssh":
        raise UsageError(f"{address!r} has no packages of its own; --own-packages goes with ssh://user@host")
    if scheme == SCHEME:
        return _set_up_emulation(board, engine, tell)
    if scheme == adb.SCHEME:
        serial = adb.read_address(address).serial
        raise UsageError(f"an Android device needs no setup; name the benchmark: adb://{serial}?benchmark=PATH")
    if scheme != "ssh":
        raise UsageError(f"{address!r} needs no setup, or has none; set up ssh://user@host or emu://pi5")
    shell = open_shell(address, "setup")
    try:
        return _set_up_board(shell, engine, offline, own_packages, tell)
    except BaseException:
        with suppress(DeviceError):  # where the link is lost, the device itself removes what was begun
            shell.sh(TIDY + "tidy", timeout=120.0)
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
        shell.sh('folder=$PWD; cd / && rm -rf -- "$folder"', timeout=120.0)
    finally:
        shell.close()


def _set_up_board(shell: Shell, engine: str, offline: bool, own_packages: bool, tell: Tell) -> dict[str, Any]:
    host = shell.place.target
    tell(f"asking {host} what it is")
    target = read_target(shell.sh(_PROBE, timeout=60.0), host, wheels=not own_packages)
    python = target.python if own_packages else _install(shell, target, engine, offline, tell)
    board = Board(shell, send(shell, runtime_files()), python)
    tell(f"trying {python}")
    installed = _try_own(board, engine, tell) if own_packages else _try(board, engine)
    record = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": engine,
        "python": python,
        "own_packages": own_packages,
        "installed": installed,
    }
    shell.sh(_NAME, json.dumps(record), timeout=120.0)
    return installed


def _install(shell: Shell, target: Target, engine: str, offline: bool, tell: Tell) -> str:
    """Make an environment beside those that are there; returns its Python, relative to the device's folder."""
    wanted, seconds = requirements(engine), f"{_INSTALL_S:g}"
    venv = f"venv-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not offline:
        tell(f"installing {', '.join(wanted)} there, by its own pip")
        try:
            shell.sh(_WITH_PIP, seconds, target.python, venv, *wanted, timeout=_INSTALL_S)
        except DeviceError as error:
            shell.sh("true", timeout=60.0)  # raises where it is the link that failed
            tell(f"its pip could not ({error}); wheels from here")
            offline = True
    if offline:
        sent = _send_wheels(shell, target, wanted, tell)
        tell("unpacking them there")
        shell.sh(_WITH_WHEELS, seconds, target.python, venv, sent, timeout=_INSTALL_S)
    return f"{venv}/bin/python"


def _send_wheels(shell: Shell, target: Target, wanted: list[str], tell: Tell) -> str:
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        tell(f"fetching {', '.join(wanted)} here, for Python {target.version[1]} on {target.arch}")
        fetch_wheels(target, wanted, wheels)
        size = sum(file.stat().st_size for file in wheels.iterdir())
        tell(f"sending {size / 1e6:.0f} MB to {shell.place.target}")
        return send(shell, files_of(wheels))


def _set_up_emulation(board: str, engine: str, tell: Tell) -> dict[str, Any]:
    if board not in BOARDS:
        raise UnknownName("emulated board", board, BOARDS)
    if engine != "onnx":
        raise UnknownName("engine of an emulated board", engine, ("onnx",))
    emulator(board, emulation_folder() / "arm64")  # no qemu: told before anything is fetched
    wanted = requirements(engine)

    def add_wheels(root: Path, version_: tuple[int, int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tell(f"fetching {', '.join(wanted)} for Python {version_[0]}.{version_[1]} on aarch64")
            fetch_wheels(Target("", version_, "aarch64", 28), wanted, Path(folder))
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


def _try_own(board: Board, engine: str, tell: Tell) -> dict[str, Any]:
    """The same with packages that the device has already: what is missing is told, and another version than here."""
    host, distribution = board.shell.place.target, ENGINE_WHEELS[engine][0]
    try:
        installed = _try(board, engine)
    except DeviceError as error:
        board.shell.sh("true", timeout=60.0)  # raises where it is the link that failed
        seen = f"{board.python} on {host} cannot serve ({str(error).removeprefix(f'{host}: ')})"
        termux = ", in Termux: pkg install python-numpy python-onnxruntime" if engine == "onnx" else ""
        raise DeviceError(f"{seen}; install numpy and {distribution} for it there{termux}") from error
    there, here = f"{distribution}=={installed.get(distribution)}", requirements(engine)[1]
    if there != here:
        tell(f"it has {there}, where this machine has {here}: their last digits may differ")
    return installed
