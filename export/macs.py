"""MACs: how many multiply-accumulates each node of an ONNX file does on given inputs.

    MatMul  [.., m, k] x [k, n]                ∏(..)·m·k·n  =  |y|·k
    Conv    w [o, i/g, k..]                    |y|·(i/g)·∏k
    Attention  q [b, h, s, d], k [b, h, t, d]  b·h·s·t·(d + d_v)

Elementwise operators count as none. Shapes are those that the engine itself computes: it runs the file once with what
these nodes read and write as outputs, so free axes, opaque operators and shapes that depend on values are all exact.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from ..runtime import ort
from ..runtime.errors import EngineError, ModelError

Shape = tuple[int, ...]
Shapes = Callable[[str], Shape]


def _by_inner(node: NodeProto, shape: Shapes) -> int:
    """|y|·k of a product whose left operand has the inner axis last."""
    return math.prod(shape(node.output[0])) * shape(node.input[0])[-1]


def _gemm(node: NodeProto, shape: Shapes) -> int:
    return math.prod(shape(node.output[0])) * shape(node.input[0])[0 if _attribute(node, "transA", 0) else -1]


def _conv(weight: int) -> Callable[[NodeProto, Shapes], int]:
    def count(node: NodeProto, shape: Shapes) -> int:
        return math.prod(shape(node.output[0])) * math.prod(shape(node.input[weight])[1:])

    return count


def _conv_transpose(node: NodeProto, shape: Shapes) -> int:
    """Each input value meets w [i, o/g, k..] of its channel."""
    return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])


def _attention(node: NodeProto, shape: Shapes) -> int:
    """Opset 23's, of 4 axes: scores, and the values that they weigh."""
    q, k, v = (shape(name) for name in node.input[:3])
    if not len(q) == len(k) == len(v) == 4:
        raise ModelError(f"the node {node.name!r} is an Attention of {len(q)} axes; only 4 are counted")
    return math.prod(q[:3]) * k[2] * (q[3] + v[3])


def _recurrent(gates: int) -> Callable[[NodeProto, Shapes], int]:
    """x [t, b, i], w [directions, gates·h, i], r [directions, gates·h, h]."""

    def count(node: NodeProto, shape: Shapes) -> int:
        (steps, batch, width), (directions, rows, _) = shape(node.input[0]), shape(node.input[1])
        return steps * batch * directions * rows * (width + rows // gates)

    return count


# Operator -> count(node, shapes). Contrib operators are ONNX Runtime's.
COUNTS: dict[str, Callable[[NodeProto, Shapes], int]] = {
    "MatMul": _by_inner,
    "MatMulInteger": _by_inner,
    "QLinearMatMul": _by_inner,
    "MatMulNBits": _by_inner,
    "MatMulIntegerToFloat": _by_inner,
    "DynamicQuantizeMatMul": _by_inner,
    "FusedMatMul": _by_inner,
    "Gemm": _gemm,
    "QGemm": _gemm,
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}


def macs(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Multiply-accumulates by node name, of the nodes that do any, on `inputs`; one without a name is `#INDEX`.

    Nodes inside If, Loop and Scan are not counted. Raises EngineError where the file does not run on the inputs,
    ModelError for an operator in a form that is not counted, which names it.

    >>> macs(Path("out/net/model.onnx"), {"x": np.zeros((1, 64), np.float32)})
    {'node_linear': 640}
    """
    model = onnx.load(str(path), load_external_data=False)
    shapes = _shapes(path, model, inputs)
    found = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in COUNTS:
            found[node.name or f"#{index}"] = COUNTS[node.op_type](node, shapes.__getitem__)
    return found


def all_shapes(path: Path, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Shape]:
    """The shape of every value of a file, by name, on `inputs`; without those that are no arrays.

    Raises EngineError where the file does not run on the inputs.
    """
    model = onnx.load(str(path))
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in inputs.items()}
    written = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    return shapes | _seen(path, model, [name for name in written if name not in shapes], inputs)


def _shapes(path: Path, model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Shape]:
    """The shapes of all that the counted nodes read and write."""
    graph = model.graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {tensor.values.name: tuple(tensor.dims) for tensor in graph.sparse_initializer}
    shapes |= {name: array.shape for name, array in inputs.items()}
    for node in graph.node:  # a weight stays as large as its integers are
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    wanted = [name for name in dict.fromkeys(_ports(graph)) if name not in shapes]
    return shapes | _seen(path, model, wanted, inputs)


def _seen(path: Path, model: onnx.ModelProto, names: list[str], inputs: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """The shapes of inner values, from one run in which nothing is fused."""
    import onnxruntime

    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        arrays = session.run(names, dict(inputs)) if names else []
    except ort.failures() as error:
        raise EngineError(f"{path} does not run with its shapes shown: {ort.first_line(error)}") from error
    return {n: array.shape for n, array in zip(names, arrays, strict=True) if isinstance(array, np.ndarray)}


def _ports(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        if node.op_type in COUNTS:
            yield from (name for name in (*node.input, node.output[0]) if name)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
