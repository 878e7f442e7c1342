"""Artifact: what an exporter leaves and a runtime opens: a folder with its manifest, `artifact.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ArtifactError, UnknownName, UsageError
from .files import require_folder

MANIFEST = "artifact.json"
FAMILY = "family.json"
GOLDEN = "golden.npz"
SCHEMA = 1

# What a path must end with to be opened as a file that somebody else made.
BARE_FORMATS = {".onnx": "onnx", ".tflite": "tflite", ".gguf": "gguf"}


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
    """One file of an artifact, by its name in the folder; `role` is `model`, `golden`, `asset` or `page`.

    An asset belongs to the model (`tokenizer.json`), a page to the site around it.
    """

    name: str
    bytes: int
    sha256: str
    role: str = "model"


@dataclass(frozen=True)
class Artifact:
    """A model as it ships. `bare` marks a single file without a manifest, of which only the engine knows the ports.

    `tolerance` is the largest difference to the golden outputs, relative to their largest magnitude, that a correct
    engine may show; `source` says what it was made from (kind, sha256), `tools` which versions made it. `needs` is what
    the file asks for beyond its ports: `lengths` that its free axes are run at, the `longest` that they take, the
    `engine` that computes it rightly.
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
    needs: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False

    @property
    def name(self) -> str:
        """The folder's or file's name; a family's member has the family's before it: `digits-int8/onnx`."""
        if self.bare:
            return self.path.stem
        folder = self.path.resolve()
        return f"{folder.parent.name}/{folder.name}" if (folder.parent / FAMILY).is_file() else folder.name

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
        return self.path / name if not self.bare and any(f.name == name for f in self.files) else None


def read_artifact(path: str | Path) -> Artifact:
    """Read a folder's manifest, or describe a bare model file. Hashes are not checked here: see `check`.

    Raises ArtifactError where it is missing, damaged or written by a newer version.

    >>> read_artifact("out/digits-int8").inputs
    (Port(name='image', dtype='float32', shape=('batch', 1, 32, 32)),)
    """
    path = Path(path)
    try:
        return _read(path)
    except OSError as error:  # no permission, a name that is too long, a disk that fails
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


def _read(path: Path) -> Artifact:
    suffix = path.suffix.lower()
    if path.is_file() and suffix in BARE_FORMATS:
        return Artifact(path, BARE_FORMATS[suffix], (describe(path),), bare=True)
    manifest = require_folder(path) / MANIFEST
    if not manifest.is_file():
        raise ArtifactError(f"{path} has no {MANIFEST}; expected a folder that edgepress export or compress wrote")
    text = manifest.read_bytes()
    try:
        return _parse(path, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{manifest} is damaged ({error!r}); export the model again") from error


def _parse(path: Path, raw: dict[str, Any]) -> Artifact:
    if raw["schema"] != SCHEMA:
        raise ArtifactError(f"{path / MANIFEST} has schema {raw['schema']}, this edgepress reads {SCHEMA}; upgrade it")
    artifact = Artifact(
        path=path,
        format=str(raw["format"]),
        files=tuple(_file(f, path / MANIFEST) for f in raw["files"]),
        inputs=tuple(_port(p) for p in raw["inputs"]),
        outputs=tuple(_port(p) for p in raw["outputs"]),
        history=tuple(Step(str(s["name"]), dict(s["settings"]), str(s["note"])) for s in raw["history"]),
        tools=dict(raw["tools"]),
        source=dict(raw["source"]),
        tolerance=float(raw["tolerance"]),
        needs=dict(raw.get("needs", {})),
    )
    _ = artifact.model  # StopIteration where no file is the model
    return artifact


def _file(raw: dict[str, Any], manifest: Path) -> File:
    name = raw["name"]
    if Path(name).name != name or name in ("", ".", ".."):  # a manifest must not reach outside its folder
        raise ArtifactError(f"{manifest} names the file {name!r}; expected plain file names")
    return File(name, int(raw["bytes"]), str(raw["sha256"]), str(raw["role"]))


def _port(raw: dict[str, Any]) -> Port:
    shape = tuple(axis if isinstance(axis, str) else int(axis) for axis in list(raw["shape"]))
    return Port(str(raw["name"]), str(raw["dtype"]), shape)


def write_manifest(artifact: Artifact) -> None:
    """Write `artifact.json` into the artifact's folder."""
    raw = {"schema": SCHEMA} | asdict(artifact)
    del raw["path"], raw["bare"]
    text = json.dumps(raw, indent=2, ensure_ascii=False)
    (artifact.path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def describe(path: Path, role: str = "model") -> File:
    """Name, size and sha256 of a file."""
    return File(path.name, path.stat().st_size, _sha256(path), role)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


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
        if _sha256(path) != file.sha256:
            raise ArtifactError(f"{path} was changed or damaged since the export (sha256); copy the folder again")


def known_formats(names: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """The formats of a text as it is typed: `onnx`, or several with commas between, the first being the first.

    Raises UnknownName, UsageError where one is named twice.

    >>> known_formats("onnx,tflite", EXPORTERS)
    ('onnx', 'tflite')
    """
    found = tuple(name.strip() for name in names.split(","))
    for name in found:
        known_format(name, table)
        if found.count(name) > 1:
            raise UsageError(f"the format {name} is named twice in {names!r}; name each once")
    return found


def known_format(name: str, table: Mapping[str, Any]) -> Any:
    """Look a format up in a table of engines or exporters; raises UnknownName."""
    if name not in table:
        raise UnknownName("format", name, table)
    return table[name]
