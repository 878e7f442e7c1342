"""Folders and files appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ArtifactError, UsageError

_MARK = ".edgepress-tmp-"


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises UsageError where `path` exists and `force` is not set. With `force` the old folder is in place until the
    new one is complete.

    >>> with new_folder(Path("out/model")) as folder:
    ...     (folder / "model.onnx").write_bytes(b"...")
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    draft = _beside(path, "new")
    draft.mkdir()
    try:
        yield draft
        _replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError where `path` exists and `force` is not set."""
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists already; name another place, or replace it with --force")
    if path.is_file() or path.is_symlink():
        raise UsageError(f"{path} is a file, not a folder; name another place")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`; a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path, "new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def require_folder(path: Path) -> Path:
    """Return `path` where it is a folder; raises ArtifactError where it is not."""
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; check the path")
    if not path.is_dir():
        raise ArtifactError(f"{path} is a file; expected an artifact's folder, with artifact.json in it")
    return path


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}{_MARK}{role}-{os.getpid()}")


def _replace(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    old = _beside(path, "old")
    path.rename(old)
    try:
        draft.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Clear up after runs that were killed: put an old folder back where its successor never came, drop the rest."""
    for left in path.parent.glob(f".{path.name}{_MARK}*"):
        role, _, pid = left.name.rpartition(_MARK)[2].partition("-")
        if pid.isdigit() and _alive(int(pid)):
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
