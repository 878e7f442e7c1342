"""Constant folding: what no input decides is computed once, and stands in the file as a constant.

    Shape(x) -> [1, 30]        Concat([1], [30], [-1]) -> [1, 30, -1]        Gather(positions, [0 .. 29]) -> 30 vectors

Where every axis is fixed, most of what a graph computes about sizes, positions and masks is known beforehand; an NPU
takes few of those operators. Integers that stand for weights stay integers, and no large constant grows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ..runtime import ort

# Bytes up to which a constant may be larger than what it is computed from: more of them are weights in a small form.
_SMALL = 2**16
# No constants, though they may read none but constants: integers of weights, numbers by chance, and what is no tensor.
_KEPT = {"Bernoulli", "DequantizeLinear", "Multinomial", "Optional", "RandomNormal", "RandomNormalLike",
         "RandomUniform", "RandomUniformLike", "SequenceConstruct", "SequenceEmpty", "SplitToSequence"}  # fmt: skip
_DOMAINS = {"", "ai.onnx", "com.microsoft"}  # others may be functions of the file's own


def fold(model: ModelProto) -> ModelProto:
    """A new model without the nodes that can be computed beforehand. The engine computes them, so the numbers stay.

    Nodes that hold graphs stay as they are, and those that give an output of the model. Raises EngineError where the
    engine does not run a node.

    >>> len(model.graph.node), len(fold(model).graph.node)
    (330, 319)
    """
    folded = ModelProto()
    folded.CopyFrom(model)
    # sizes that one turn reveals make more constant in the next
    while known := _known(folded):
        _replace(folded.graph, known)
    return folded


def _known(model: ModelProto) -> dict[str, np.ndarray]:
    """The values that can be known, by name: sizes, and what is computed from them and from constants."""
    graph, known = model.graph, _sizes(model)
    overridden = {port.name for port in graph.input}
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in overridden}
    constant, chosen = {"", *tensors, *known}, []
    outputs = {port.name for port in graph.output}
    for node in graph.node:
        if constant.issuperset(node.input) and not _stays(node, outputs) and node.output[0] not in known:
            chosen.append(node)
            constant.update(node.output)
    values = _run(model, chosen, known)
    bytes_ = {name: array.nbytes for name, array in (values | known).items()}
    bytes_ |= {name: len(tensor.raw_data) for name, tensor in tensors.items() if name not in bytes_}
    for node in chosen:
        size = sum(values[name].nbytes for name in node.output if name)
        if all(name in known or name in tensors for name in node.input if name) and (
            size <= max(_SMALL, sum(bytes_[name] for name in set(node.input) if name))
        ):
            known |= {name: values[name] for name in node.output if name}
    return known


def _sizes(model: ModelProto) -> dict[str, np.ndarray]:
    """What the Shape nodes give that read a value of fixed axes."""
    found = {}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info)
        if value.type.tensor_type.HasField("shape")
        and all(axis.HasField("dim_value") for axis in value.type.tensor_type.shape.dim)
    }
    outputs = {port.name for port in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes and node.output[0] not in outputs:
            cut = {attribute.name: attribute.i for attribute in node.attribute}
            part = slice(cut.get("start", 0), cut.get("end"))
            found[node.output[0]] = np.array(shapes[node.input[0]][part], np.int64)
    return found


def _stays(node: NodeProto, outputs: set[str]) -> bool:
    holds = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    kept = node.op_type in _KEPT or node.domain not in _DOMAINS or not node.output[0]
    return kept or holds or not outputs.isdisjoint(node.output)


def _run(model: ModelProto, nodes: Sequence[NodeProto], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the nodes give, which read nothing but constants and what is known."""
    if not nodes:
        return {}
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    constants += [numpy_helper.from_array(array, name) for name, array in known.items() if name in read]
    outputs = [onnx.ValueInfoProto(name=name) for node in nodes for name in node.output if name]
    graph = helper.make_graph(nodes, "constants", [], outputs, constants)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return ort.start(Path("constants"), threads=1, content=made.SerializeToString()).run({})


def _replace(graph: GraphProto, known: Mapping[str, np.ndarray]) -> None:
    """Put constants in the place of the nodes that gave them, and drop what nobody reads any more."""
    nodes = [node for node in graph.node if node.output[0] not in known]
    read = {name for node in nodes for name in _reads(node)} | {port.name for port in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    constants += [numpy_helper.from_array(array, name) for name, array in known.items() if name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def _reads(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, those among them that graphs inside it read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
