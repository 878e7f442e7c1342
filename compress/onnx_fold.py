"""What can be known before a graph runs: operators on constants are computed, a bias joins its product."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .onnx_file import Graph, Node
from .onnx_ops import SEVERAL_OUTPUTS, function_for
from .onnx_signature import LITERAL, TENSOR, VALUE, signature
from .onnx_values import Value, as_tensor

_SIZES = 64  # an int vector up to this length may be a shape; a longer one is data


def fold(graph: Graph) -> Graph:
    """Compute every node whose inputs are all constants; the constants that nothing reads any more are gone."""
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        function = function_for(node.op, graph.opset)
        if function is None or not node.inputs or any(name and name not in constants for name in node.inputs):
            nodes.append(node)
            continue
        with torch.no_grad():
            result = function(*arguments(function, node, constants.__getitem__), **attributes(node))
        results = result if node.op in SEVERAL_OUTPUTS else (result,)
        constants.update(zip(node.outputs, results, strict=False))
    used = {name for node in nodes for name in node.inputs} | {port.name for port in graph.outputs}
    constants = {name: value for name, value in constants.items() if name in used}
    return replace(graph, nodes=tuple(nodes), constants=constants)


def arguments(function: Callable[..., Any], node: Node, get: Callable[[str], Any]) -> list[Any]:
    """A node's inputs as its function wants them, absent ones as the function's defaults."""
    wanted = signature(function)
    result = []
    for position, name in enumerate(node.inputs):
        if name:
            result.append(handed(get(name), wanted.kind(position)))
        else:
            result.append(wanted.default(position))
    return result


def handed(value: Any, kind: str) -> Any:
    """A constant as a parameter of that kind takes it: a tensor, or a Python number or list where it may be a size."""
    if kind == TENSOR:
        return as_tensor(value) if isinstance(value, int | float | list) else value
    if not isinstance(value, Tensor) or value.ndim > 1 or value.numel() > _SIZES:
        return value
    if kind == LITERAL or value.dtype in (torch.int32, torch.int64):
        return value.tolist()
    return value.item() if value.ndim == 0 and value.dtype in (torch.float32, torch.bool) else value


def attributes(node: Node) -> dict[str, Any]:
    """A node's attributes; those that hold a vector of sizes as a tensor (ConstantOfShape's value) hold a list."""
    result: dict[str, Value] = {name: handed(value, VALUE) for name, value in node.attributes.items()}
    if node.op == "Split":
        result["num_outputs"] = len(node.outputs)
    return result


def join_biases(graph: Graph) -> Graph:
    """`Add(MatMul(x, W), b) -> MatMul(x, W, b)` where W and b are constants and nothing else reads the product."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(port.name for port in graph.outputs)
    single = (node for node in graph.nodes if uses[node.outputs[0]] == 1)
    products = {node.outputs[0]: node for node in single if _is_product(node, graph)}
    joined: dict[str, Node] = {}  # by the output of the product, which the joined node replaces
    gone: set[str] = set()
    for node in graph.nodes:
        if node.op != "Add" or len(node.inputs) != 2:
            continue
        for product, bias in (node.inputs, node.inputs[::-1]):
            if product in products and _fits(graph.constants.get(bias), products[product], graph):
                old = products[product]
                joined[product] = replace(old, inputs=(*old.inputs, bias), outputs=node.outputs)
                gone.add(node.outputs[0])
                break
    kept = (node for node in graph.nodes if node.outputs[0] not in gone)
    return replace(graph, nodes=tuple(joined.get(node.outputs[0], node) for node in kept))


def _is_product(node: Node, graph: Graph) -> bool:
    weight = graph.constants.get(node.inputs[1]) if node.op == "MatMul" else None
    return isinstance(weight, Tensor) and weight.ndim == 2 and node.inputs[0] not in graph.constants


def _fits(bias: Any, product: Node, graph: Graph) -> bool:
    return isinstance(bias, Tensor) and bias.shape == graph.constants[product.inputs[1]].shape[1:]
