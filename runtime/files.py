"""Folders and files appear whole or not at all, and what cannot be read of one is told with its name."""

import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .errors import ArtifactError, DataError, UsageError

T = TypeVar("T")

_MARK = ".edgepress-tmp-"
# A folder that holds one of these is ours to replace.
_OURS = ("artifact.json", "family.json")


def read_text(path: Path, read: Callable[[str], T], remedy: str) -> T:
    """What `read` makes of a file's text. Raises DataError, with its name, where it cannot be read or is damaged.

    >>> read_text(Path("report.json"), from_json, "expected a report.json")
    """
    try:
        return read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except (UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path}: {error}") from error


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises UsageError where `path` exists and `force` is not set. With `force` the old folder is in place until the
    new one is complete; only a folder that is empty, or holds an artifact or a family, is replaced, and no other.

    >>> with new_folder(Path("out/model")) as folder:
    ...     (folder / "model.onnx").write_bytes(b"...")
    """
    if path.name in ("", ".."):
        raise UsageError(f"{path} is a place, not a name; name a new folder")
    _remove_stale(path)
    refuse_existing(path, force=force)
    draft = _beside(path, "new")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another place") from error
    try:
        yield draft
        refuse_existing(path, force=force)  # somebody else may have written it meanwhile
        replace_folder(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError where `path` exists and may not be replaced: see `new_folder`."""
    if not os.path.lexists(path):
        return
    if not force:
        raise UsageError(f"{path} exists already; name another place, or replace it with --force")
    if path.is_symlink() or not path.is_dir():
        raise UsageError(f"{path} is a file or a link, not a folder; name another place")
    if not any((path / name).is_file() for name in _OURS) and any(path.iterdir()):
        seen = f"{path} holds other files and no {' or '.join(_OURS)}"
        raise UsageError(f"{seen}; name another place, --force would delete them")


def refuse_lost(folder: Path, names: Sequence[str], what: str) -> None:
    """Raise UsageError where one of these files lies in `folder` and was not written by us, so that it would be lost.

    The first of the names is the JSON by which a folder of ours is known. `what` says what they are not.
    """
    ours = folder / names[0]
    if ours.is_file() and ours.read_bytes().startswith(b'{"schema": '):
        return
    for path in (folder / name for name in names):
        if path.exists():
            raise UsageError(f"{path} is not {what} and would be lost; name another folder")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; what is written there becomes `path` when the block ends well, and vanishes else.

    >>> with new_file(Path("report.md")) as draft:
    ...     draft.write_text("...")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    draft = _beside(path, "new")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`; a reader sees the old text or the new, never a part."""
    with new_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def require_folder(path: Path) -> Path:
    """Return `path` where it is a folder; raises ArtifactError where it is not."""
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; check the path")
    if not path.is_dir():
        raise ArtifactError(f"{path} is a file; expected an artifact's folder, with artifact.json in it")
    return path


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}{_MARK}{role}-{os.getpid()}")


def replace_folder(draft: Path, path: Path) -> None:
    """Move the folder `draft` to `path`; an older folder there is in place until then, and comes back on failure."""
    if not path.exists():
        draft.rename(path)
        return
    old = _beside(path, "old")
    try:
        path.rename(old)
        draft.rename(path)
    finally:
        if not path.exists():
            old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Clear up after runs that were killed: put an old folder back where its successor never came, drop the rest."""
    for left in path.parent.glob(f".{glob.escape(path.name)}{_MARK}*"):
        role, _, pid = left.name.rpartition(_MARK)[2].partition("-")
        # A container often gives each run the same number, so what bears ours is left from an earlier one.
        if pid.isdigit() and int(pid) != os.getpid() and _alive(int(pid)):
            continue
        if role == "old" and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
