"""Fixed shapes for an NPU: an ONNX artifact whose free axes have one size each; operators that the unit does not take.

    image float32[batch, 1, 32, 32]  ->  image float32[1, 1, 32, 32]

The sizes are those of the artifact's first golden sample, which stands alone; its outputs are computed anew.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx

from ..runtime.artifact import GOLDEN, Artifact, Step
from ..runtime.errors import UnsupportedError
from ..runtime.golden import first_inputs
from .formats import Draft, build

# Where shapes are fixed, the engine knows what these give before it runs, and drops them.
_FOLDED = {"Constant", "ConstantOfShape", "Shape", "Size"}


def fix(artifact: Artifact, out: Path, *, force: bool = False) -> Artifact:
    """Write the artifact `out`: the same weights, every axis at the size that the first golden sample has.

    Raises UnsupportedError for another format than ONNX and for an artifact without golden samples, and what `export`
    raises.

    >>> fix(read_artifact("out/digits-int8"), Path("out/digits-npu")).inputs[0].shape
    (1, 1, 32, 32)
    """
    golden = artifact.asset(GOLDEN)
    if artifact.format != "onnx" or golden is None:
        raise UnsupportedError(
            f"{artifact.path} is {'a bare file' if artifact.bare else 'in the format ' + artifact.format}; shapes are "
            "fixed for an ONNX artifact with golden samples: a folder that edgepress wrote"
        )
    sample = first_inputs(golden)
    sizes = {
        axis: sample[port.name].shape[at]
        for port in artifact.inputs
        for at, axis in enumerate(port.shape)
        if isinstance(axis, str)
    }

    def write(folder: Path) -> Path:
        path = folder / artifact.model.name
        onnx.save(_fixed(artifact.model, sample, sizes), str(path))
        return path

    assets = {file.name: (artifact.path / file.name).read_bytes() for file in artifact.files if file.role == "asset"}
    step = Step("fix", {"sizes": sizes}, "free axes have one size each") if sizes else None
    draft = Draft(
        artifact.name, "onnx", write, (sample,), assets, artifact.tolerance,
        (*artifact.history, *([step] if step else [])), artifact.source,
    )  # fmt: skip
    return build(draft, out, force=force)


def untaken(path: Path, ops: Collection[str]) -> Mapping[str, int]:
    """The operators of an ONNX file of fixed shapes that are none of `ops`, and how often each stands there."""
    found = Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)
    return {op: count for op, count in sorted(found.items()) if op not in _FOLDED and op not in ops}


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
