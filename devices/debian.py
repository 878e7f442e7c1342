"""Debian's arm64 packages, fetched by this machine's apt and unpacked into a folder: no root, no change to the system.

apt gets folders of its own, which say that the machine is an arm64 one with nothing installed; the sources and their
keys are the system's. dpkg-deb unpacks the packages, and no script of theirs is run.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..runtime.errors import DeviceError
from ..runtime.files import replace_folder
from .process import Done, call, last_line

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")


def make_root(
    root: Path, complete: Callable[[Path, tuple[int, int]], None], tell: Callable[[str], None]
) -> tuple[int, int]:
    """Make the folder `root`, or make it anew: arm64 packages with a Python, whose version is returned.

    `complete(folder, version)` adds the rest, before the folder gets its name. Raises DeviceError where apt fails or is
    not there; what was there before stays then.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DeviceError(
                f"there is no {tool} here; an emulated board is made of Debian's packages, on Debian or Ubuntu"
            )
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        with tempfile.TemporaryDirectory() as folder:
            tell("fetching Debian's arm64 Python")
            for package in _fetch(Path(folder)):
                _checked(call(["dpkg-deb", "-x", str(package), str(draft)], None), "dpkg-deb")
        version = _python(draft)
        complete(draft, version)
        draft.chmod(0o755)
        replace_folder(draft, root)
        return version
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fetch(folder: Path) -> list[Path]:
    """Download PACKAGES for arm64, with all that they depend on."""
    for name in ("lists/partial", "archives/partial", "etc"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", "-qq", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    call([*apt, "update"], None)  # a source without arm64 fails it, and the packages may be there all the same
    _checked(call([*apt, "--yes", "--download-only", "install", *PACKAGES], None), "apt-get")
    return sorted((folder / "archives").glob("*.deb"))


def _python(root: Path) -> tuple[int, int]:
    for path in sorted((root / "usr" / "bin").glob("python3.*")):
        if found := re.fullmatch(r"python3\.(\d+)", path.name):
            return 3, int(found[1])
    raise DeviceError(f"Debian's packages {', '.join(PACKAGES)} brought no Python; report it with the release's name")


def _checked(done: Done, tool: str) -> None:
    if done.code:
        raise DeviceError(
            f"{tool} could not get arm64 packages ({last_line(done)}); check the network and apt's sources"
        )
