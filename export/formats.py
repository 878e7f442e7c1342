"""export: a model as an artifact: the file of its format, its golden samples, its manifest, whole or not at all."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..runtime.artifact import (
    GOLDEN,
    MANIFEST,
    Artifact,
    Step,
    check,
    describe,
    known_format,
    read_artifact,
    write_manifest,
)
from ..runtime.errors import EngineError, ModelError, UnsupportedError
from ..runtime.family import Family, member_of, read_family, write_family
from ..runtime.files import new_folder
from ..runtime.golden import Case, difference, write_golden
from ..runtime.session import load
from .model import Model, Web

Write = Callable[[Model, Path], Path]
Finish = Callable[[Artifact], Artifact]


def _onnx(model: Model, folder: Path) -> Path:
    from . import onnx

    return onnx.write(model, folder)


def _tflite(model: Model, folder: Path) -> Path:
    from . import tflite

    return tflite.write(model, folder)


def _gguf(model: Model, folder: Path) -> Path:
    from . import gguf

    return gguf.write(model, folder)


# Format -> write(model, folder) -> the file written. A web build has the very file that ONNX has.
EXPORTERS: dict[str, Write] = {"onnx": _onnx, "tflite": _tflite, "gguf": _gguf, "web": _onnx}

# Largest difference that a correct engine may show on another machine, relative to the largest golden magnitude.
# Float sums come in another order there; one step of an int8 activation is 1/255 of its range, and a few add up.
TOLERANCE = {"float32": 1e-4, "quantized": 5e-2}

_TOOLS = ("edgepress", "numpy", "onnx", "onnxruntime", "onnxscript", "torch", "transformers", "ai-edge-litert",
          "litert-torch", "gguf", "llama-cpp-python")  # fmt: skip


def export(model: Model, to: str, out: Path, *, force: bool = False) -> Artifact:
    """Write `model` in the format `to` as the artifact `out`, open it, run it, and keep what it gave as golden samples.

    Raises UnknownName for a format, UsageError where `out` exists and `force` is not set, UnsupportedError where the
    format cannot express the model or it is random, ModelError where it does not run on its own example, EngineError
    where the written file does not open or gives no finite output.

    >>> export(model, "onnx", Path("out/digits-fp32")).bytes
    """
    write = known_format(to, EXPORTERS)
    if model.ggml.type and to != "gguf":
        raise UnsupportedError(
            f"{model.name} shall be stored as {model.ggml.type}, which {to} has not; export it to gguf"
        )
    whole = {name: tensor.detach().numpy() for name, tensor in model.example.items()}
    exact = not (_is_quantized(model) or model.ggml.type)
    draft = Draft(
        model.name, to, lambda folder: write(model, folder), (_first(whole, model), whole), model.assets,
        TOLERANCE["float32" if exact else "quantized"], model.history, model.source,
        site(model.name, model.web) if to == "web" else None,
    )  # fmt: skip
    return build(draft, out, force=force)


@dataclass(frozen=True)
class Draft:
    """What an artifact is made of: the file that `write(folder)` leaves, samples to run it on, and what ships along.

    `finish` adds to the finished artifact, as the page of a web build.
    """

    name: str
    format: str
    write: Callable[[Path], Path]
    samples: Sequence[Mapping[str, np.ndarray]]
    assets: Mapping[str, bytes]
    tolerance: float
    history: tuple[Step, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    finish: Finish | None = None


def site(name: str, web: Web) -> Finish:
    """What puts a page around the artifact of that name."""
    from .web import lay

    return lambda artifact: lay(artifact, name, web)


def build(draft: Draft, out: Path, *, force: bool = False) -> Artifact:
    """Write the file, open it as a user would, run it and keep what it gave: the folder appears whole or not at all."""
    with new_folder(out, force=force) as folder:
        files = [describe(draft.write(folder))]
        for name, content in draft.assets.items():
            if name in (files[0].name, GOLDEN, MANIFEST):
                raise ModelError(f"{draft.name} has the asset {name!r}, a name that the artifact needs; rename it")
            (folder / name).write_bytes(content)
            files.append(describe(folder / name, "asset"))
        artifact = Artifact(
            folder, draft.format, tuple(files), history=draft.history, tools=_versions(), source=draft.source
        )
        write_manifest(artifact)
        artifact = _with_golden(artifact, draft)
        write_manifest(artifact if draft.finish is None else draft.finish(artifact))
        check(read_artifact(folder))
    return read_artifact(out)


def export_family(
    model: Model, to: Sequence[str], out: Path, *, force: bool = False, tell: Callable[[str], None] = lambda text: None
) -> Family:
    """Write `model` in each of the formats `to`, each an artifact of its own in `out/FORMAT`, as the family `out`.

    The folder appears whole or not at all. Raises what `export` raises.

    >>> list(export_family(model, ("onnx", "tflite"), Path("out/fam")).members)
    ['onnx', 'tflite']
    """
    with new_folder(out, force=force) as folder:
        members = {}
        for form in to:
            tell(f"exporting to {form}")
            members[form] = member_of(export(model, form, folder / form))
        write_family(Family(folder, members))
    return read_family(out)


def _with_golden(artifact: Artifact, draft: Draft) -> Artifact:
    """Open the file and run it on the samples: a model's example, alone and in a batch."""
    session = load(artifact.path)
    cases = []
    for inputs in draft.samples:
        outputs, again = session(**inputs), session(**inputs)
        for name, array in outputs.items():
            if not np.isfinite(array.astype(np.float64)).all():
                raise EngineError(f"the exported file gives NaN or infinity at output {name!r} for the model's example")
            if difference(again[name], array) > draft.tolerance:
                raise UnsupportedError(f"{draft.name} gives other numbers at {name!r} each time; make it deterministic")
        cases.append(Case(inputs, outputs))
    write_golden(artifact.path / GOLDEN, cases)
    return replace(
        artifact,
        files=(*artifact.files, describe(artifact.path / GOLDEN, "golden")),
        inputs=session.inputs,
        outputs=session.outputs,
        needs=session.engine.needs,
        tolerance=draft.tolerance,
    )


def _first(inputs: Mapping[str, np.ndarray], model: Model) -> dict[str, np.ndarray]:
    """The first sample of a batch, where the first axis is free."""
    return {name: array[:1] if 0 in model.axes.get(name, {}) else array for name, array in inputs.items()}


def _is_quantized(model: Model) -> bool:
    tensors: list[Tensor] = [*model.module.buffers(), *model.module.parameters()]
    return any(str(t.dtype) in ("torch.int8", "torch.uint8") for t in tensors)


def _versions() -> dict[str, str]:
    """Versions of the tools that shape the file, as installed."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
