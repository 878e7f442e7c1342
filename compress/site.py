"""A web build of a file that is there already, as it is: an ONNX artifact, or an `.onnx` file of somebody else's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from ..export.formats import TOLERANCE, Draft, build, site
from ..export.model import Web
from ..export.onnx import FILE, MAX_BYTES
from ..runtime.arrays import read_arrays
from ..runtime.artifact import GOLDEN, Artifact, check, describe, read_artifact
from ..runtime.errors import ModelError, UnsupportedError
from ..runtime.golden import read_golden
from ..runtime.invented import invent
from ..runtime.parts import whole
from ..runtime.session import load

_HOLDS = ("onnx", "web")
_INTEGERS = ("Integer", "NBits", "Quant")  # in the names of operators that compute with them


def site_of(path: Path, out: Path, web: Web, data: Path | None = None, *, force: bool = False) -> Artifact:
    """Write a web build of the model file at `path`, byte for byte, as the artifact `out`.

    An artifact brings its golden samples. A bare file is run on the first sample of `data` (an `.npz`, an array an
    input), else on invented inputs, as `edgepress verify` does; weights that lie beside it are taken into the file.
    Raises ArtifactError, EngineError, UsageError, UnsupportedError for another format and for more than 2 GB.

    >>> site_of(Path("model.onnx"), Path("site"), Web(max_file=25_000_000)).format
    'web'
    """
    artifact = read_artifact(path)
    if artifact.format not in _HOLDS:
        raise UnsupportedError(f"{path} is in the format {artifact.format}; a web build is made of an ONNX artifact")
    draft = _of_file(artifact, data) if artifact.bare else _of_artifact(artifact)
    return build(replace(draft, finish=site(draft.name, web)), out, force=force)


def _of_artifact(artifact: Artifact) -> Draft:
    check(artifact)
    golden = artifact.asset(GOLDEN)
    samples = [] if golden is None else [case.inputs for case in read_golden(golden)]
    assets = {f.name: (artifact.path / f.name).read_bytes() for f in artifact.files if f.role == "asset"}
    content = whole(artifact.model)
    return Draft(
        artifact.name.replace("/", "-"), "web", lambda folder: _written(folder, content), samples, assets,
        artifact.tolerance, artifact.history, artifact.source,
    )  # fmt: skip


def _of_file(artifact: Artifact, data: Path | None) -> Draft:
    path = artifact.path
    ports = load(path, threads=1).inputs
    if strings := [port.name for port in ports if port.dtype == "object"]:
        raise UnsupportedError(f"{path} takes text at {strings[0]!r}; a browser gives it numbers only")
    sample = {port.name: invent(port) for port in ports}
    if data is not None:
        arrays = read_arrays(data)
        sample = {p.name: _one(arrays[p.name], p.shape) for p in ports if p.name in arrays}
    content, quantized = _contents(path)
    kind, source = "quantized" if quantized else "float32", {"kind": "onnx", "sha256": describe(path).sha256}
    return Draft(
        path.stem, "web", lambda folder: _written(folder, content), [sample], {}, TOLERANCE[kind], source=source
    )


def _one(array: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    """The first sample, where the first axis is free."""
    return array[:1] if shape and isinstance(shape[0], str) else array


def _contents(path: Path) -> tuple[bytes, bool]:
    """The file's bytes, with weights that lie beside it taken in, and whether it computes with integers."""
    content = path.read_bytes()
    try:
        graph = onnx.load_model_from_string(content).graph
        beside = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)
        joined = onnx.load(str(path)) if beside else None
    except Exception as error:  # protobuf's own, and onnx's for files that are missing
        raise ModelError(f"{path} cannot be read as ONNX ({error}); check the file and what lies beside it") from error
    if joined is not None:
        if joined.ByteSize() > MAX_BYTES:
            raise UnsupportedError(f"{path} has {joined.ByteSize() / 1e9:.1f} GB of weights; a browser opens 2 GB")
        content = joined.SerializeToString()
    return content, any(word in node.op_type for node in graph.node for word in _INTEGERS)


def _written(folder: Path, content: bytes) -> Path:
    (folder / FILE).write_bytes(content)
    return folder / FILE
