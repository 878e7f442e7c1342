"""What an NPU does not take of an ONNX file, by name: operators, types of weights and activations, floats in between.

    y = s_y·(Q_y − z_y),   Q_y = round(s_x·s_w/s_y · Σ (Q_x − z_x) Q_w) + z_y

An NPU computes a product on integers where x, W and y all are integers. With float weights it computes in float16 at
best; integers that become floats in the product go back to the CPU.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

from .fixed import listed

# Where shapes are fixed, the engine knows what these give before it runs, and drops them.
_FOLDED = {"Constant", "ConstantOfShape", "Shape", "Size"}
# Their scales are found as the model runs.
_DYNAMIC = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# What may stand between a stored weight and its product.
_STORED = {"Cast", "DequantizeLinear", "Reshape", "Transpose"}
# ... and between a product and its quantization: the engine joins them.
_JOINED = {"Add", "Clip", "Relu"}


@dataclass(frozen=True)
class _Graph:
    """Who gives a value, who reads it, which are stored in the file, which leave it."""

    nodes: Sequence[NodeProto]
    made: Mapping[str, NodeProto]
    users: Mapping[str, Sequence[NodeProto]]
    stored: Mapping[str, TensorProto]
    outputs: Collection[str]


def unsuited(
    path: Path, *, ops: Collection[str], weights: Sequence[str], activations: Sequence[str], provider: str, device: str
) -> tuple[str, ...]:
    """A line for each thing in an ONNX file of fixed shapes that the NPU of `device` does not take, and its remedy.

    `ops`, `weights` and `activations` are the operators and the types that it takes; `provider` starts it.

    >>> unsuited(file, ops=npu.ops, weights=("int8",), activations=("uint8",), provider="qnn", device="sm8650")
    ('Erf (1) will not run on the NPU: qnn has no such operator',)
    """
    graph, remedy = _read(path), f"compress the model with --on {device}"
    lines = []
    for op, count in untaken(graph.nodes, ops).items():
        why = f"; its scales are found as it runs, so {remedy}" if op in _DYNAMIC else ""
        lines.append(f"{op} ({count}) will not run on the NPU: {provider} has no such operator{why}")
    for kind, found in _weights(graph).items():
        if kind not in weights:
            lines.append(f"{listed(found)}: {kind} weights, the NPU takes {', '.join(weights)}; {remedy}")
    for kind, count in _activations(graph).items():
        if kind not in activations:
            taken = ", ".join(activations)
            lines.append(f"QuantizeLinear ({count}): {kind} activations, the NPU takes {taken}; {remedy}")
    if halves := Counter(node.op_type for node in graph.nodes if _is_half(graph, node)):
        lines.append(f"{listed(halves)}: integers in, floats out, the NPU takes integers on both sides; {remedy}")
    return tuple(lines)


def untaken(nodes: Sequence[NodeProto], ops: Collection[str]) -> Mapping[str, int]:
    """The operators that are none of `ops`, and how often each stands there."""
    found = Counter(node.op_type for node in nodes)
    return {op: count for op, count in sorted(found.items()) if op not in _FOLDED and op not in ops}


def _read(path: Path) -> _Graph:
    graph = onnx.load(str(path)).graph
    users: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    made = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    return _Graph(graph.node, made, users, stored, {port.name for port in graph.output})


def _weights(graph: _Graph) -> Mapping[str, Mapping[str, int]]:
    """The products by the type in which their weights are stored; one of two activations has none."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for node in graph.nodes:
        if node.op_type in _PRODUCTS and (kind := _type(graph, _origin(graph, node.input[1]))):
            found[kind][node.op_type] += 1
    return found


def _activations(graph: _Graph) -> Mapping[str, int]:
    """How many values are quantized to each type."""
    zeros = [node.input[2] if len(node.input) > 2 else "" for node in graph.nodes if node.op_type == "QuantizeLinear"]
    return Counter(_type(graph, zero) or "uint8" for zero in zeros)  # ONNX's default


def _is_half(graph: _Graph, node: NodeProto) -> bool:
    """True for a product of integers that is written as floats."""
    reads = [graph.made[name].op_type for name in node.input[:2] if name in graph.made]
    if node.op_type not in _PRODUCTS or reads != ["DequantizeLinear"] * 2:
        return False
    name, constants = node.output[0], ("", *graph.stored)
    while name not in graph.outputs and len(users := graph.users[name]) == 1 and users[0].op_type in _JOINED:
        others = [other for other in users[0].input if other != name]
        if any(_origin(graph, other) not in constants for other in others):
            break  # an addition of two activations is a node of its own
        name = users[0].output[0]
    return name in graph.outputs or any(user.op_type != "QuantizeLinear" for user in graph.users[name])


def _origin(graph: _Graph, name: str) -> str:
    """The value that one is stored as, where it is stored; else the first that the model computes on the way."""
    while name in graph.made and graph.made[name].op_type in _STORED:
        name = graph.made[name].input[0]
    return name


def _type(graph: _Graph, name: str) -> str:
    return onnx.helper.tensor_dtype_to_np_dtype(graph.stored[name].data_type).name if name in graph.stored else ""
