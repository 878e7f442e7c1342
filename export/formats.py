"""export: a model as an artifact: the file of its format, its golden samples, its manifest, whole or not at all."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..runtime.artifact import GOLDEN, MANIFEST, Artifact, check, describe, known_format, read_artifact, write_manifest
from ..runtime.errors import EngineError, ModelError, UnsupportedError
from ..runtime.family import Family, member_of, read_family, write_family
from ..runtime.files import new_folder
from ..runtime.golden import Case, difference, write_golden
from ..runtime.session import load
from .model import Model

Write = Callable[[Model, Path], Path]


def _onnx(model: Model, folder: Path) -> Path:
    from . import onnx

    return onnx.write(model, folder)


def _tflite(model: Model, folder: Path) -> Path:
    from . import tflite

    return tflite.write(model, folder)


# Format -> write(model, folder) -> the file written.
EXPORTERS: dict[str, Write] = {"onnx": _onnx, "tflite": _tflite}

# Largest difference that a correct engine may show on another machine, relative to the largest golden magnitude.
# Float sums come in another order there; one step of an int8 activation is 1/255 of its range, and a few add up.
TOLERANCE = {"float32": 1e-4, "quantized": 5e-2}

_TOOLS = ("edgepress", "numpy", "onnx", "onnxruntime", "onnxscript", "torch", "transformers", "ai-edge-litert",
          "litert-torch")  # fmt: skip


def export(model: Model, to: str, out: Path, *, force: bool = False) -> Artifact:
    """Write `model` in the format `to` as the artifact `out`, open it, run it, and keep what it gave as golden samples.

    Raises UnknownName for a format, UsageError where `out` exists and `force` is not set, UnsupportedError where the
    format cannot express the model or it is random, ModelError where it does not run on its own example, EngineError
    where the written file does not open or gives no finite output.

    >>> export(model, "onnx", Path("out/digits-fp32")).bytes
    """
    write = known_format(to, EXPORTERS)
    with new_folder(out, force=force) as folder:
        files = [describe(write(model, folder))]
        for name, content in model.assets.items():
            if name in (files[0].name, GOLDEN, MANIFEST):
                raise ModelError(f"{model.name} has the asset {name!r}, a name that the artifact needs; rename it")
            (folder / name).write_bytes(content)
            files.append(describe(folder / name, "asset"))
        draft = Artifact(folder, to, tuple(files), history=model.history, tools=_versions(), source=model.source)
        write_manifest(draft)
        write_manifest(_with_golden(draft, model))
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


def _with_golden(draft: Artifact, model: Model) -> Artifact:
    """Open the file as a user would, run it on the model's example, alone and in a batch, and keep the answers."""
    session = load(draft.path)
    whole = {name: tensor.detach().numpy() for name, tensor in model.example.items()}
    tolerance = TOLERANCE["quantized" if _is_quantized(model) else "float32"]
    cases = []
    for inputs in (_first(whole, model), whole):
        outputs, again = session(**inputs), session(**inputs)
        for name, array in outputs.items():
            if not np.isfinite(array.astype(np.float64)).all():
                raise EngineError(f"the exported file gives NaN or infinity at output {name!r} for the model's example")
            if difference(again[name], array) > tolerance:
                raise UnsupportedError(f"{model.name} gives other numbers at {name!r} each time; make it deterministic")
        cases.append(Case(inputs, outputs))
    write_golden(draft.path / GOLDEN, cases)
    return replace(
        draft,
        files=(*draft.files, describe(draft.path / GOLDEN, "golden")),
        inputs=session.inputs,
        outputs=session.outputs,
        needs=session.engine.needs,
        tolerance=tolerance,
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
