"""Prediction: the latency of an ONNX file on a machine of which there is a probe, operator by operator.

    ms(node) = overhead + work / throughput(kind, precision, reuse, weights) + bytes of the weights / bandwidth

The throughput is that of the probe's kernels that are nearest in log2(reuse) and log2(weights). Bytes count only where
a model has more weights than the kernels have, at the bandwidth of an array as large as all of them. The graph is taken
as the engine fuses it. What it would be as int8 or int4 is predicted by another throughput for the products that have
constant weights.

A roofline (Williams, Waterman and Patterson, 2009) would take the larger of the two terms; it was 59 % too fast for
MiniLM with 12 tokens, for the products of a short text do not hide what they wait for.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from ..export.macs import COUNTS, all_shapes
from ..runtime import ort
from ..runtime.artifact import read_artifact
from ..runtime.errors import EngineError, UnsupportedError
from ..runtime.place import example
from ..runtime.probe import Point, Probe

_NEAREST = 3
_NEAR = 2**21  # bytes: what the kernels' own weights take; those of a larger model come from farther away
_BYTES = {"float32": 4.0, "int8": 1.0, "int4": 4.5 / 8}
# Operator -> precision of its products, where it is none of float32's.
_INT8 = {"MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QLinearConv",
         "ConvInteger"}  # fmt: skip
_CONVS = {"Conv", "FusedConv", "QLinearConv", "ConvInteger"}
_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # the input that holds the weights, else the second
_KINDS = {"Softmax": "softmax", "QLinearSoftmax": "softmax", "Gelu": "gelu", "BiasGelu": "gelu", "FastGelu": "gelu",
          "Erf": "gelu", "Tanh": "gelu", "Sigmoid": "gelu", "Exp": "gelu", "HardSigmoid": "gelu",
          "LayerNormalization": "norm", "SkipLayerNormalization": "norm"}  # fmt: skip
_BODIES = ("If", "Loop", "Scan")
# Views: another shape of the same bytes.
_FREE = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Identity", "Constant"}


@dataclass(frozen=True)
class Node:
    """An operator as the engine runs it: its place in the probe's grid, and the predicted ms by precision.

    `ms` has `as is`, and `int8` and `int4` where it would change; `work` are multiply-accumulates, else elements.
    """

    name: str
    op: str
    kind: str
    precision: str
    work: int
    ms: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """The nodes in the order of the graph, and the total by precision: `as is`, `int8`, `int4`, in ms.

    `measured` is the median latency here, of the quietest round, where the probe is of this machine.
    """

    name: str
    cpu: str
    threads: int | None
    nodes: tuple[Node, ...]
    ms: Mapping[str, float]
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1; None where it was not measured."""
        return None if self.measured is None else self.ms["as is"] / self.measured - 1


def predict(path: Path, probe: Probe) -> Prediction:
    """The latency of an artifact or a bare ONNX file on the probe's machine, for its first golden sample.

    Raises UnsupportedError for another format and for branches and loops, EngineError where the file does not run here.

    >>> predict(Path("out/digits-fp32"), probe).ms
    {'as is': 0.41, 'int8': 0.24, 'int4': 0.41}
    """
    artifact = read_artifact(path)
    if artifact.format != "onnx":
        raise UnsupportedError(f"{path} is in the format {artifact.format}; a latency is predicted of onnx only")
    inputs = example(artifact)
    with tempfile.TemporaryDirectory() as folder:
        file = _fused(artifact.model, Path(folder))
        model = onnx.load(str(file))
        shapes = all_shapes(file, inputs)
    for node in model.graph.node:
        if node.op_type in _BODIES:
            raise UnsupportedError(f"{path} holds {node.op_type}, whose work depends on values; nothing is predicted")
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in COUNTS]
    weights = sum(math.prod(shapes.get(name, ())) for name in {_weight(n) for n in products} & constants)
    nodes = tuple(_node(node, shapes, constants, probe, weights) for node in model.graph.node)
    total = {p: probe.call_ms + sum(n.ms.get(p, n.ms["as is"]) for n in nodes) for p in ("as is", "int8", "int4")}
    return Prediction(artifact.name, probe.machine.cpu, probe.threads, nodes, total)


def throughput(points: Sequence[Point], overhead: float, reuse: float, weights: float) -> float:
    """Work per ms: the mean of the nearest points' logarithms, weighted by the inverse squared distance."""
    place = np.log2([max(reuse, 1), max(weights, 1)])
    places = np.log2([[max(p.reuse, 1), max(p.weights, 1)] for p in points])
    speeds = np.log([p.work / max(p.ms - overhead, 0.1 * p.ms) for p in points])
    distances = ((places - place) ** 2).sum(axis=1)
    nearest = np.argsort(distances, kind="stable")[:_NEAREST]
    shares = 1 / (distances[nearest] + 1e-6)
    return float(np.exp((shares * speeds[nearest]).sum() / shares.sum()))


def _node(node: NodeProto, shapes: Mapping[str, Any], constants: set[str], probe: Probe, model: int) -> Node:
    """`model` is the number of weights of all nodes."""
    read = [name for name in node.input[:1] if name not in constants]  # a table is not read as a whole
    elements = max((math.prod(shapes[name]) for name in (*node.output, *read) if name in shapes), default=0)
    if node.op_type not in COUNTS:
        kind = "free" if node.op_type in _FREE else _KINDS.get(node.op_type, "elementwise")
        ms = probe.overhead_ms if kind == "free" else _time(probe, kind, "float32", elements, 1, elements, 0.0)
        return Node(node.name, node.op_type, kind, "float32", elements, {"as is": ms})
    work = COUNTS[node.op_type](node, shapes.__getitem__)
    name = _weight(node)
    shape = shapes.get(name, (1,))
    constant = name in constants
    count = math.prod(shape) if constant else math.prod(shape[-2:])
    if node.op_type == "MatMulNBits":  # stored in blocks of bytes
        count = 2 * count
    kind = "matmul"
    if node.op_type in _CONVS:
        kind = "depthwise" if len(shape) > 1 and shape[1] == 1 and shape[0] > 1 else "conv"
    if not constant and kind == "matmul":  # one product a head: each matrix is used by its own rows
        reuse = shapes[node.input[0]][-2] if len(shapes[node.input[0]]) > 1 else 1
    else:
        reuse = work / max(count, 1)
    precision = "int8" if node.op_type in _INT8 else "int4" if node.op_type == "MatMulNBits" else "float32"
    others = ["int8", "int4"] if precision == "float32" and constant else []
    ms = {
        label: _time(probe, kind, p, reuse, count, work, model * _BYTES[p])
        for label, p in (("as is", precision), *((other, other) for other in others))
        if any(point.kind == kind and point.precision == p for point in probe.points)
    }
    if "as is" not in ms:
        raise UnsupportedError(f"the probe has no {kind} in {precision}, which {node.op_type} needs; probe again")
    return Node(node.name, node.op_type, kind, precision, work, ms)


def _time(
    probe: Probe, kind: str, precision: str, reuse: float, weights: float, work: float, all_bytes: float
) -> float:
    points = [p for p in probe.points if p.kind == kind and p.precision == precision]
    if not points:
        raise UnsupportedError(f"the probe has no {kind} in {precision}; probe again with this version")
    computed = work / throughput(points, probe.overhead_ms, reuse, weights)
    read = 0.0 if all_bytes <= _NEAR else 1000 * weights * _BYTES[precision] / _bandwidth(probe, all_bytes)
    return probe.overhead_ms + computed + read


def _bandwidth(probe: Probe, size: float) -> float:
    """Bytes per second where so many bytes are read in turn; logarithms between the sizes that were measured."""
    sizes = sorted(probe.bandwidth)
    speeds = np.log([probe.bandwidth[one] for one in sizes])
    return float(np.exp(np.interp(math.log(size), np.log(sizes), speeds)))


def _weight(node: NodeProto) -> str:
    place = _WEIGHT.get(node.op_type, 1)
    return node.input[place] if place < len(node.input) else ""


def _fused(path: Path, folder: Path) -> Path:
    """The file as the engine runs it on any processor: constants folded, operators fused, layouts as they are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "fused.onnx")
    try:
        onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )
    except ort.failures() as error:
        raise EngineError(f"ONNX Runtime cannot open {path}: {ort.first_line(error)}") from error
    return folder / "fused.onnx"
