"""Artifact: what an exporter leaves and a runtime opens: a folder with its manifest, `artifact.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ArtifactError, UnknownName
from .files import require_folder

MANIFEST = "artifact.json"
GOLDEN = "golden.npz"
SCHEMA = 1

# What a path must end with to be opened as a file that somebody else made.
BARE_FORMATS = {".onnx": "onnx"}


@dataclass(frozen=True)
class Port:
    """An input or output: NumPy dtype name, and a shape in which a string is a free axis (`batch`, `sequence`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Step:
    """What was done to a model: a pass's name, its settings, and what it says it changed."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class File:
    """One file of an artifact, by its name in the folder; `role` is `model`, `golden` or `asset`."""

    name: str
    bytes: int
    sha256: str
    role: str = "model"


@dataclass(frozen=True)
class Artifact:
    """A model as it ships. `bare` marks a single file without a manifest, of which only the engine knows the ports.

    `tolerance` is the largest difference to the golden outputs, relative to their largest magnitude, that a correct
    engine may show; `source` says what it was made from (kind, sha256), `tools` which versions made it.
    """

    path: Path
    format: str
    files: tuple[File, ...]
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    history: tuple[Step, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.0
    bare: bool = False

    @property
    def name(self) -> str:
        """The folder's or file's name."""
        return self.path.stem if self.bare else self.path.resolve().name

    @property
    def model(self) -> Path:
        """The file that the engine opens."""
        return self.path if self.bare else self.path / next(f.name for f in self.files if f.role == "model")

    @property
    def bytes(self) -> int:
        """Bytes of the model's files on disk, without golden samples and assets."""
        return sum(f.bytes for f in self.files if f.role == "model")

    def asset(self, name: str) -> Path | None:
        """The path of a file that ships along (`tokenizer.json`, `labels.json`), or None."""
        return self.path / name if any(f.name == name for f in self.files) else None


def read_artifact(path: str | Path) -> Artifact:
    """Read a folder's manifest, or describe a bare model file. Hashes are not checked here: see `check`.

    Raises ArtifactError where it is missing, damaged or written by a newer version.

    >>> read_artifact("out/digits-int8").inputs
    (Port(name='image', dtype='float32', shape=('batch', 1, 8, 8)),)
    """
    path = Path(path)
    if path.is_file() and path.suffix in BARE_FORMATS:
        return Artifact(path, BARE_FORMATS[path.suffix], (describe(path),), bare=True)
    manifest = require_folder(path) / MANIFEST
    if not manifest.is_file():
        raise ArtifactError(f"{path} has no {MANIFEST}; expected a folder that edgepress export or compress wrote")
    try:
        raw = json.loads(manifest.read_text(encoding="utf-8"))
        return _parse(path, raw)
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise ArtifactError(f"{manifest} is damaged ({error!r}); export the model again") from error


def _parse(path: Path, raw: dict[str, Any]) -> Artifact:
    if raw["schema"] != SCHEMA:
        raise ArtifactError(f"{path / MANIFEST} has schema {raw['schema']}, this edgepress reads {SCHEMA}; upgrade it")
    artifact = Artifact(
        path=path,
        format=raw["format"],
        files=tuple(File(**f) for f in raw["files"]),
        inputs=tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in raw["inputs"]),
        outputs=tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in raw["outputs"]),
        history=tuple(Step(**s) for s in raw["history"]),
        tools=raw["tools"],
        source=raw["source"],
        tolerance=float(raw["tolerance"]),
    )
    for file in artifact.files:  # a manifest must not reach outside its folder
        if Path(file.name).name != file.name or file.name in (".", ".."):
            raise ArtifactError(f"{path / MANIFEST} names the file {file.name!r}; expected plain file names")
    _ = artifact.model  # StopIteration where no file is the model
    return artifact


def write_manifest(artifact: Artifact) -> None:
    """Write `artifact.json` into the artifact's folder."""
    raw = {"schema": SCHEMA} | asdict(artifact)
    del raw["path"], raw["bare"]
    text = json.dumps(raw, indent=2, ensure_ascii=False)
    (artifact.path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def describe(path: Path, role: str = "model") -> File:
    """Name, size and sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(path.name, path.stat().st_size, digest, role)


def check(artifact: Artifact) -> None:
    """Raise ArtifactError where a file is missing or is not the one that was exported (size, sha256)."""
    if artifact.bare:
        return
    for file in artifact.files:
        path = artifact.path / file.name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; copy the whole folder again, or export the model again")
        if path.stat().st_size != file.bytes:
            size = path.stat().st_size
            raise ArtifactError(f"{path} has {size} bytes, the manifest says {file.bytes}; copy the folder again")
        if describe(path).sha256 != file.sha256:
            raise ArtifactError(f"{path} was changed or damaged since the export (sha256); copy the folder again")


def known_format(name: str, table: Mapping[str, Any]) -> Any:
    """Look a format up in a table of engines or exporters; raises UnknownName."""
    if name not in table:
        raise UnknownName("format", name, table)
    return table[name]
