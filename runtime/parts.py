"""Parts: a web build opened by ONNX Runtime: the same model file, whole or as the parts that a file host asked for."""

from collections.abc import Sequence
from pathlib import Path

from . import ort

_MODEL = "model.onnx"


def start(path: Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",)) -> ort.OrtEngine:
    """Open the model of a web build, whose file `path` is, or the first part of it. Raises what `ort.start` raises."""
    if path.name == _MODEL:
        return ort.start(path, threads=threads, providers=providers)
    return ort.start(path, threads=threads, providers=providers, content=whole(path))


def whole(path: Path) -> bytes:
    """The ONNX file of a web build, whose file `path` is, or the first part of it."""
    if path.name == _MODEL:
        return path.read_bytes()
    return b"".join(part.read_bytes() for part in sorted(path.parent.glob(f"{_MODEL}.[0-9][0-9][0-9]")))
