"""The precision of a file, read from the file, and how far it allows two files to differ.

A pair is held to the limits of the coarser of its two precisions; two files that hold the same integers, made by the
same steps, to tighter ones: there only the engines' arithmetic differs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.artifact import Artifact, Step, known_format
from ..runtime.gguf_file import read_gguf
from ..runtime.parts import whole

if TYPE_CHECKING:
    from onnx import GraphProto

# From the finest to the coarsest.
PRECISIONS = ("float32", "float16", "int8", "int4")


@dataclass(frozen=True)
class Limits:
    """What a pair of files is held to: the least mean cosine over natural inputs, and over all of them, worst included.

    `difference` bounds max|a − b| / max|a|, and None leaves that to the cosine.
    """

    cosine: float
    worst_cosine: float
    difference: float | None = None


# The coarser precision of two files -> what rounding alone may make of it. Measured on MiniLM and the digits networks:
# float16 .999999, int8 .997 to .9999, int4 in blocks .98 to .996; unnatural inputs cost more, and are held to less.
BETWEEN = {
    "float32": Limits(0.99999, 0.9999, 1e-3),
    "float16": Limits(0.9999, 0.999, 2e-2),
    "int8": Limits(0.99, 0.90),
    "int4": Limits(0.95, 0.80),
}
# Two files with the same integers. Engines quantize activations as they come by tensor or by row: MiniLM .9990, and
# .984 for a batch of unnatural text.
SAME = {
    "float32": Limits(0.99999, 0.9999, 1e-3),
    "float16": Limits(0.9999, 0.999, 2e-2),
    "int8": Limits(0.998, 0.97),
    "int4": Limits(0.995, 0.95),
}
# The golden samples of float files are held to less.
_FLOATS = 1e-3
# Passes that only round what is there. Any other makes another network of it.
ROUNDING = {"static_int8", "dynamic_int8", "weight_only", "packed_int8", "mixed", "float16"}


def limits(a: tuple[str, tuple[Step, ...]], b: tuple[str, tuple[Step, ...]]) -> Limits | None:
    """What two files, as (precision, history), are held to; None where they are different networks."""
    coarser = max(a[0], b[0], key=PRECISIONS.index)
    if not same_steps(*(tuple(step for step in side[1] if step.name not in ROUNDING) for side in (a, b))):
        return None
    return (SAME if a[0] == b[0] and same_steps(a[1], b[1]) else BETWEEN)[coarser]


def same_steps(a: tuple[Step, ...], b: tuple[Step, ...]) -> bool:
    """True where two histories have the same steps with the same settings, read from a manifest or fresh."""
    told = ([(step.name, json.dumps(step.settings, sort_keys=True)) for step in history] for history in (a, b))
    return next(told) == next(told)


def precision_of(artifact: Artifact) -> str:
    """One of PRECISIONS: that of the coarsest weights.

    Where the package that looks into a file is missing, as on a device, the manifest says whether it has integers.
    """
    read = known_format(artifact.format, _READERS)
    try:
        found = read(artifact.model)
    except ImportError:
        return "int8" if artifact.tolerance > _FLOATS else "float32"
    return max(found, key=PRECISIONS.index, default="float32")


def _onnx(path: Path) -> set[str]:
    import onnx

    return _in_graph(onnx.load(str(path)).graph)


def _web(path: Path) -> set[str]:
    import onnx

    return _in_graph(onnx.load_model_from_string(whole(path)).graph)


def _in_graph(graph: "GraphProto") -> set[str]:
    import onnx

    names = onnx.TensorProto.DataType.Name
    kinds = {names(tensor.data_type) for tensor in graph.initializer if int(np.prod(tensor.dims)) > 1}
    bits = {a.i for node in graph.node for a in node.attribute if a.name == "bits"}
    return {_KINDS[kind] for kind in kinds if kind in _KINDS} | ({"int4"} if 4 in bits else set())


def _tflite(path: Path) -> set[str]:
    from .tflite_file import read_file, schema, shape

    model = read_file(path).model
    held = [t for graph in model.subgraphs for t in graph.tensors if model.buffers[t.buffer].data is not None]
    kinds = {"INT4": "int4", "INT8": "int8", "FLOAT16": "float16", "UINT8": "int8"}
    codes = {getattr(schema.TensorType, name): kind for name, kind in kinds.items()}
    return {codes[tensor.type] for tensor in held if tensor.type in codes and int(np.prod(shape(tensor))) > 1}


def _gguf(path: Path) -> set[str]:
    """By the weights in tables; vectors stay in F32 whatever the rest is in."""
    bits = {tensor.type: 8 * tensor.bytes / tensor.size for tensor in read_gguf(path).tensors if len(tensor.shape) > 1}
    return {"float32" if b > 16 else "float16" if b > 15 else "int8" if b > 6.6 else "int4" for b in bits.values()}


_KINDS = {"INT4": "int4", "UINT4": "int4", "INT8": "int8", "UINT8": "int8", "FLOAT16": "float16"}
_READERS: Mapping[str, Callable[[Path], set[str]]] = {"onnx": _onnx, "tflite": _tflite, "gguf": _gguf, "web": _web}
