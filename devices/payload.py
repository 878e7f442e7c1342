"""Payload: files on their way to a device, and the digest of what they hold, for what is there is not sent again."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ..runtime.errors import UsageError

# Name on the device, with / between folders -> file here.
Files = Mapping[str, Path]

# The last member of an archive: `tar` takes a stream that was cut between two files for a whole one.
WHOLE = ".whole"


def files_of(local: Path) -> Files:
    """A file, or all files of a folder, under the name that it has here. Raises UsageError where there is nothing."""
    local = local.resolve()
    if local.is_file():
        return {local.name: local}
    found = {
        f"{local.name}/{path.relative_to(local).as_posix()}": path
        for path in sorted(local.rglob("*"))
        if path.is_file()
    }
    if not found:
        raise UsageError(f"{local} holds no files; expected an artifact's folder or a file")
    return found


def runtime_files() -> Files:
    """The runtime of this edgepress: it travels with each connection, so that a device never has another one."""
    package = Path(__file__).resolve().parent.parent
    sources = [package / "__init__.py", *sorted((package / "runtime").glob("*.py"))]
    return {f"edgepress/{path.relative_to(package).as_posix()}": path for path in sources}


def digest(files: Files) -> str:
    """sha256 over names and contents, 32 hexadecimal digits of it."""
    total = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as stream:
            total.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()} {name}\n".encode())
    return total.hexdigest()[:32]


def write_tar(files: Files, stream: IO[bytes]) -> None:
    """Write the files as a tar archive, bit by bit, WHOLE at its end."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name, path in files.items():
            member = archive.gettarinfo(path, name)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)
        archive.addfile(tarfile.TarInfo(WHOLE), io.BytesIO())
