"""Fixed shapes for an NPU: an ONNX artifact whose free axes have one size each, and what that makes constant folded.

    image float32[batch, 1, 32, 32]  ->  image float32[1, 1, 32, 32]

The sizes are those of the artifact's first golden sample, which stands alone; or, for all axes but the first of each
input, a length that was asked for, to which the sample is cut or filled with zeros. Its outputs are computed anew.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from ..runtime import ort
from ..runtime.artifact import GOLDEN, Artifact, Step
from ..runtime.errors import EngineError, UnsupportedError, UsageError
from ..runtime.golden import Case, difference, read_golden
from .folded import fold
from .formats import Draft, build


def fix(artifact: Artifact, out: Path, *, length: int | None = None, force: bool = False) -> Artifact:
    """Write the artifact `out`: the same weights, every axis at the size that the first golden sample has.

    `length` is that of every free axis but the first of each input, as the tokens of a text. What became constant is
    folded, and named in the history. Raises UnsupportedError for another format than ONNX and for an artifact without
    golden samples, UsageError for a length that no axis has, EngineError where the file computes other outputs than the
    golden ones (than the artifact, at another length), and what `export` raises.

    >>> fix(read_artifact("out/digits-int8"), Path("out/digits-npu")).inputs[0].shape
    (1, 1, 32, 32)
    """
    golden = artifact.asset(GOLDEN)
    if artifact.format != "onnx" or golden is None:
        raise UnsupportedError(
            f"{artifact.path} is {'a bare file' if artifact.bare else 'in the format ' + artifact.format}; shapes are "
            "fixed for an ONNX artifact with golden samples: a folder that edgepress wrote"
        )
    sample = read_golden(golden)[0]
    if length is not None:
        sample = _at_length(artifact, sample, length)
    sizes = {
        axis: sample.inputs[port.name].shape[at]
        for port in artifact.inputs
        for at, axis in enumerate(port.shape)
        if isinstance(axis, str)
    }
    shaped = _fixed(artifact.model, sample.inputs, sizes)
    model = fold(shaped)
    gone = Counter(node.op_type for node in shaped.graph.node) - Counter(node.op_type for node in model.graph.node)
    note = "free axes have one size each" if sizes else ""
    if gone:
        note += f"{'; ' if note else ''}constants folded: {listed(gone)}"

    def write(folder: Path) -> Path:
        path = folder / artifact.model.name
        onnx.save(model, str(path))
        _refuse_others(path, sample, artifact.tolerance)
        return path

    assets = {file.name: (artifact.path / file.name).read_bytes() for file in artifact.files if file.role == "asset"}
    step = Step("fix", {"sizes": sizes}, note)
    draft = Draft(
        artifact.name, "onnx", write, (sample.inputs,), assets, artifact.tolerance,
        (*artifact.history, *([step] if note else [])), artifact.source,
    )  # fmt: skip
    return build(draft, out, force=force)


def _at_length(artifact: Artifact, sample: Case, length: int) -> Case:
    """The sample with its free axes but the first cut, or filled with zeros; its outputs are the artifact's own."""
    ports = artifact.inputs
    free = [(port.name, at) for port in ports for at, axis in enumerate(port.shape) if at and isinstance(axis, str)]
    if not free:
        raise UsageError(f"{artifact.path} has no free axis but the first; leave the length {length} out")
    inputs = dict(sample.inputs)
    for name, at in free:
        cut = inputs[name].take(range(min(length, inputs[name].shape[at])), at)
        inputs[name] = np.pad(cut, [(0, length - cut.shape[at] if axis == at else 0) for axis in range(cut.ndim)])
    if all(np.array_equal(inputs[name], array) for name, array in sample.inputs.items()):
        return sample
    return replace(sample, inputs=inputs, outputs=ort.start(artifact.model, threads=1).run(inputs))


def listed(counts: Mapping[str, int]) -> str:
    """Operators, and how often each stands there, by name.

    >>> listed({"Shape": 3, "Concat": 2})
    'Concat (2), Shape (3)'
    """
    return ", ".join(f"{op} ({count})" for op, count in sorted(counts.items()))


def _refuse_others(path: Path, sample: Case, tolerance: float) -> None:
    """Raise EngineError where a file computes other outputs than a golden sample has."""
    outputs = ort.start(path, threads=1).run(sample.inputs)
    for name, wanted in sample.outputs.items():
        if not (apart := difference(outputs[name], wanted)) <= tolerance:
            raise EngineError(
                f"with fixed shapes {name} comes out {apart:.1e} apart from the golden sample, {tolerance:.0e} "
                "allowed; export the artifact again on this machine"
            )


def _fixed(path: Path, sample: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> onnx.ModelProto:
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # inner shapes are inferred anew
    for port in model.graph.input:
        for axis, size in zip(port.type.tensor_type.shape.dim, sample[port.name].shape, strict=True):
            axis.dim_value = size
    for port in model.graph.output:
        for axis in port.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    return model
