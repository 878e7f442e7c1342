"""A board: a machine with a shell, set up by `edgepress devices setup`, as a link: put, run, close.

Files lie under `files/DIGEST/NAME` in the device's folder: what is there already is not sent again, a file that arrives
gets its name when it is whole, and what was not used for 30 days goes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import DeviceError
from .payload import WHOLE, Files, digest, files_of, runtime_files, write_tar
from .ssh import GUARDED, Shell, open_shell

_ANSWER_S = 60.0

_HAS = """[ -d "files/$1" ] && touch "files/$1" && echo yes || echo no"""

_TAKE = f"""
part="files/.part-$1"
find files -mindepth 1 -maxdepth 1 \\( -mtime +30 -o -name '.part-*' \\) -exec rm -rf {{}} + 2>/dev/null
mkdir -p "$part" && tar -xof - -C "$part" && rm "$part/{WHOLE}" && mv "$part" "files/$1" && exit
rm -rf "$part"; exit 74
"""

_RUN = (
    GUARDED
    + """
export PYTHONPATH="$1"; python=$2; seconds=$3; shift 3
guarded "$seconds" "$python" -P "$@"
"""
)


@dataclass(frozen=True)
class Board:
    """The link to a board.

    `runtime` is the folder on the device that holds this edgepress's runtime, `python` the Python that has the engine.
    """

    shell: Shell
    runtime: str
    python: str

    def put(self, local: Path) -> str:
        """Send a file or folder, unless the device has it; returns its path there."""
        return f"{send(self.shell, files_of(local))}/{local.resolve().name}"

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Run the device's Python, with this edgepress's runtime."""
        return self.shell.sh(_RUN, self.runtime, self.python, f"{timeout:g}", *arguments, timeout=timeout)

    def close(self) -> None:
        """End the connection, and whatever it still runs there."""
        self.shell.close()


def open_board(address: str) -> Board:
    """Connect to `ssh://user@host[:port][/folder]`. Raises DeviceError with the reason where that fails."""
    shell = open_shell(address)
    try:
        python = _python(shell)
        return Board(shell, send(shell, runtime_files()), python)
    except BaseException:
        shell.close()
        raise


def _python(shell: Shell) -> str:
    """The Python that setup.json names."""
    try:
        return str(json.loads(shell.sh("cat setup.json", timeout=_ANSWER_S))["python"])
    except (ValueError, KeyError, TypeError) as error:
        place = shell.place
        seen = f"{place.folder}/setup.json on {place.target} names no Python"
        raise DeviceError(f"{seen}; set it up anew: edgepress devices setup {place.address}") from error


def send(shell: Shell, files: Files) -> str:
    """Bring files to the device; returns the folder that they lie in."""
    name = digest(files)
    if shell.sh(_HAS, name, timeout=_ANSWER_S).strip() != "yes":
        shell.sh(_TAKE, name, feed=lambda stream: write_tar(files, stream))
    return f"{shell.folder}/files/{name}"
