"""A Raspberry Pi without a Pi: a real arm64 Python with a real ONNX Runtime, run by qemu's user-mode emulation.

It tells whether a file computes on the board what it computed where it was made, before there is a board. It is 80 to
200 times slower, so that no time is taken. Nothing runs as root, and all lies in one folder: Debian's arm64 packages,
unpacked, and the wheels. Not `-cpu max`: int8 results are wrong there (0.24 off instead of 0.059, qemu 7.2).
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import DeviceError, UnknownName, UsageError
from ..runtime.files import new_folder
from .payload import digest, runtime_files
from .process import call, last_line

SCHEME = "emu"
_QEMU = ("qemu-aarch64-static", "qemu-aarch64")


@dataclass(frozen=True)
class Processor:
    """What qemu plays, and what the kernel of the board tells of it: `part` is its number among ARM's."""

    cpu: str
    part: str
    features: str


BOARDS = {
    "pi4": Processor("cortex-a72", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "pi5": Processor("cortex-a76", "0xd0b", "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid "
                     "asimdrdm lrcpc dcpop asimddp"),
}  # fmt: skip
_CORES = 4
# ONNX Runtime chooses its kernels by the part, and ends with a fault where there is no such file.
_CORE = """\
processor\t: {core}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""


@dataclass(frozen=True)
class Emulated:
    """The link to an emulated board: files stay where they are, programs run in fresh processes of the arm64 Python."""

    board: str
    root: Path
    runtime: Path

    def put(self, local: Path) -> str:
        """The path itself."""
        return str(local.resolve())

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Run the arm64 Python with `arguments`."""
        path = os.pathsep.join((str(self.runtime), str(self.root / "wheels")))
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
        command = [*emulator(self.board, self.root), "-P", "-s", *arguments]
        try:
            done = call(command, timeout, environment=environment)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"no answer from the emulated {self.board} in {timeout:g} s; it was ended") from error
        if done.code < 0:
            raise DeviceError(f"the program was killed by signal {-done.code} on the emulated {self.board}")
        if done.code:
            raise DeviceError(f"the emulated {self.board}: {last_line(done)}")
        return done.output

    def close(self) -> None:
        """Nothing to drop."""


def open_emulated(address: str) -> Emulated:
    """Open `emu://pi4` or `emu://pi5`. Raises DeviceError where it is not set up, UnknownName for another board."""
    board = address.partition("://")[2]
    if board not in BOARDS:
        raise UnknownName("emulated board", board, BOARDS)
    root = emulation_folder() / "arm64"
    if not (root / "wheels").is_dir():
        raise DeviceError(f"the emulated {board} is not set up; do it once: edgepress devices setup {address}")
    emulator(board, root)
    return Emulated(board, root, _runtime(emulation_folder()))


def emulation_folder() -> Path:
    """Where all of it lies: `edgepress/emulated` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgepress" / "emulated"


def emulator(board: str, root: Path) -> list[str]:
    """The command that runs the arm64 Python. Raises DeviceError where qemu is not installed."""
    qemu = next((found for name in _QEMU if (found := shutil.which(name))), None)
    if qemu is None:
        remedy = "on Debian and Ubuntu: sudo apt-get install qemu-user-static"
        raise DeviceError(f"there is no qemu for arm64 programs here; {remedy}")
    python = next(iter(sorted((root / "usr" / "bin").glob("python3.*[0-9]"))), root / "usr" / "bin" / "python3")
    return [qemu, "-cpu", BOARDS[board].cpu, "-L", str(root / "boards" / board), str(python)]


def add_boards(root: Path) -> None:
    """Give each board a view of the root, with a /proc/cpuinfo of its own."""
    entries = [path.name for path in root.iterdir()]
    for name, processor in BOARDS.items():
        view = root / "boards" / name
        (view / "proc").mkdir(parents=True)
        for entry in entries:
            (view / entry).symlink_to(Path("..", "..", entry))
        cores = (_CORE.format(core=i, part=processor.part, features=processor.features) for i in range(_CORES))
        (view / "proc" / "cpuinfo").write_text("".join(cores), encoding="utf-8")


def _runtime(folder: Path) -> Path:
    """The runtime of this edgepress, copied: the arm64 Python must not find the libraries that lie beside it here."""
    files = runtime_files()
    place = folder / "runtime" / digest(files)
    if not place.is_dir():
        try:
            with new_folder(place) as draft:
                for name, path in files.items():
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, draft / name)
        except UsageError:
            if not place.is_dir():  # else another run was faster, with the same files
                raise
    return place
