"""Put integers into a TFLite file where the converter left what stands for them, and miss none.

    int8 per channel       INT8, a scale a channel; XNNPACK quantizes what a product reads as it comes, a scale a row
    ... of static int8     INT8, where the output stays float behind a DEQUANTIZE, for the product is one of floats then
    float16                FLOAT16 behind a DEQUANTIZE, which engines run once
    4 bits in blocks       INT4, two in a byte, the scales of the blocks in a float16 tensor beside them

A layer is found by its numbers: by the integers of its stand-in and their scales, or by the floats that they stand for.
Spec: TensorFlow Lite's schema (QuantizationParameters, BlockwiseQuantization).
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from ..runtime.errors import UnsupportedError
from .onnx_lower import pack
from .qtensor import QTensor
from .tflite_file import TfliteFile, shape
from .tflite_lower import Decision

# The operators with a weight, which is the second input of each -> how it lies in the file, in torch's axes.
LAYOUTS: Mapping[str, tuple[int, ...]] = {
    "FULLY_CONNECTED": (0, 1),
    "EMBEDDING_LOOKUP": (0, 1),
    "CONV_2D": (0, 3, 1, 2),
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),
}


def put_integers(file: TfliteFile, decisions: Iterable[Decision]) -> None:
    """See to it, in place, that the file holds the integers of every layer.

    Raises UnsupportedError where the converter has put other numbers in the place of a layer's.
    """
    wanted: dict[bytes, Decision] = {}
    for decision in decisions:
        stand_in = decision.stand_in
        if isinstance(stand_in, QTensor):
            wanted[_of_integers(stand_in.values, stand_in.scale)] = decision
        floats = stand_in.dequantize() if isinstance(stand_in, QTensor) else stand_in
        wanted[_digest(floats.numpy())] = decision
    _drop_barriers(file, wanted.keys())
    stored: dict[int, tuple[int, int]] = {}
    for graph, tensor, layout in list(weights(file)):
        found = wanted.get(_key(file, tensor, layout))
        if found is None:
            continue
        tensor.name = found.layer.encode()
        file.named.add(tensor.name)
        if tensor.type == schema.TensorType.INT8 and found.weight is found.stand_in:
            stored[id(found)] = (0, 0)  # the converter has made the integers already
            continue
        if id(found) not in stored:
            stored[id(found)] = _store(file, found.weight, shape(tensor), layout)
        if found.dequantized:
            tensor = _source(file, graph, tensor)
        _describe(graph, tensor, found.weight, layout, stored[id(found)])
    for decision in wanted.values():
        if id(decision) not in stored:
            raise UnsupportedError(
                f"{decision.layer}: the converter has put other numbers in the place of its integers; exclude the "
                "layer from quantization"
            )
    file.drop_unread()


def quantize_inputs(file: TfliteFile) -> None:
    """Let a float input be one again: the converter takes a QUANTIZE that reads one out of the file, for the caller."""
    for graph in file.model.subgraphs:
        for place, index in enumerate(list(graph.inputs)):
            tensor = graph.tensors[index]
            if tensor.type != schema.TensorType.INT8:
                continue
            given: Any = schema.TensorT()
            given.name, given.shape, given.type = tensor.name, list(shape(tensor)), schema.TensorType.FLOAT32
            tensor.name = tensor.name + b"_integers"
            graph.tensors.append(given)
            operator: Any = schema.OperatorT()
            operator.opcodeIndex = file.code(schema.BuiltinOperator.QUANTIZE, version=1)
            operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
            graph.operators.insert(0, operator)
            graph.inputs = [*graph.inputs[:place], len(graph.tensors) - 1, *graph.inputs[place + 1 :]]
            for signature in file.model.signatureDefs:
                if file.model.subgraphs[signature.subgraphIndex] is graph:
                    for entry in signature.inputs:
                        entry.tensorIndex = len(graph.tensors) - 1 if entry.tensorIndex == index else entry.tensorIndex


def _drop_barriers(file: TfliteFile, wanted: Collection[bytes]) -> None:
    """`product(x, dequantize(quantize(W))) -> product(x, W)`: the two kept the converter from folding W into others."""
    for graph in file.model.subgraphs:
        makers = {output: operator for operator in graph.operators for output in operator.outputs}
        dead: set[int] = set()
        for operator in graph.operators:
            kind, chain = file.name_of(operator), []
            index = operator.inputs[1] if kind in LAYOUTS else -1
            while (maker := makers.get(index)) is not None and file.name_of(maker) in ("QUANTIZE", "DEQUANTIZE"):
                chain.append(maker)
                index = maker.inputs[0]
            if chain and _key(file, graph.tensors[index], LAYOUTS[kind]) in wanted:
                operator.inputs = [operator.inputs[0], index, *operator.inputs[2:]]
                dead |= {id(maker) for maker in chain}
        read = {index for operator in graph.operators if id(operator) not in dead for index in operator.inputs}
        read |= {*graph.outputs}
        graph.operators = [o for o in graph.operators if id(o) not in dead or read.intersection(o.outputs)]


def weights(file: TfliteFile) -> Iterable[tuple[Any, Any, tuple[int, ...]]]:
    """Each weight's tensor once, with its subgraph and its layout."""
    seen: set[int] = set()
    for graph, operator, kind in file.operators():
        if kind in LAYOUTS and id(tensor := graph.tensors[operator.inputs[1]]) not in seen:
            seen.add(id(tensor))
            yield graph, tensor, LAYOUTS[kind]


def _key(file: TfliteFile, tensor: Any, layout: tuple[int, ...]) -> bytes:
    held = file.constant(tensor)
    if held is None:
        return b""
    held = held.transpose(layout)
    if held.dtype == np.float32:
        return _digest(held)
    if held.dtype != np.int8 or tensor.quantization is None or tensor.quantization.scale is None:
        return b""
    return _of_integers(torch.from_numpy(held.copy()), torch.tensor(tensor.quantization.scale))


def _store(
    file: TfliteFile, weight: QTensor | torch.Tensor, sizes: tuple[int, ...], layout: tuple[int, ...]
) -> tuple[int, int]:
    """The buffers that hold values, as they lie in a tensor of these sizes, and the scales of blocks."""
    values = (weight.values if isinstance(weight, QTensor) else weight).numpy()
    if not isinstance(weight, QTensor) or weight.block is None:
        turned = values.reshape([sizes[axis] for axis in layout]).transpose(np.argsort(layout))
        return file.add_buffer(turned.tobytes()), 0
    nibbles = pack(((values.astype(np.int16) - weight.midpoint) & 15).astype(np.uint8).reshape(1, -1), 4)
    return file.add_buffer(nibbles.tobytes()), file.add_buffer(weight.scale.to(torch.float16).numpy().tobytes())


def _source(file: TfliteFile, graph: Any, tensor: Any) -> Any:
    """A new constant that a DEQUANTIZE, the first of all operators, turns into `tensor`."""
    constant: Any = schema.TensorT()
    constant.name, constant.shape = tensor.name + b"_integers", list(shape(tensor))
    graph.tensors.append(constant)
    tensor.buffer = 0
    operator: Any = schema.OperatorT()
    operator.opcodeIndex = file.code(schema.BuiltinOperator.DEQUANTIZE, version=2)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [graph.tensors.index(tensor)]
    graph.operators.insert(0, operator)
    return constant


def _describe(
    graph: Any, tensor: Any, weight: QTensor | torch.Tensor, layout: tuple[int, ...], buffers: tuple[int, int]
) -> None:
    """Let a tensor be what the buffers hold."""
    tensor.buffer, scales = buffers
    if not isinstance(weight, QTensor):
        tensor.type = schema.TensorType.FLOAT16
        return
    quantization: Any = schema.QuantizationParametersT()
    tensor.type = schema.TensorType.INT8 if weight.block is None else schema.TensorType.INT4
    if weight.block is None:
        quantization.scale = weight.scale.numpy()
        quantization.zeroPoint = np.zeros(len(weight.scale), np.int64)
        quantization.quantizedDimension = layout[0]
    else:
        side: Any = schema.TensorT()
        side.name, side.shape = tensor.name + b"_scales", list(weight.scale.shape)
        side.type, side.buffer = schema.TensorType.FLOAT16, scales
        graph.tensors.append(side)
        details: Any = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = len(graph.tensors) - 1, -1, weight.block
        quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        quantization.details = details
    tensor.quantization = quantization


def _of_integers(values: torch.Tensor, scale: torch.Tensor) -> bytes:
    return _digest(values.numpy()) + _digest(scale.float().numpy())


def _digest(array: np.ndarray) -> bytes:
    """The numbers in their order; axes of 1 do not count, for the converter moves and drops them."""
    shape = tuple(size for size in array.shape if size > 1)
    return hashlib.sha256(f"{array.dtype}{shape}".encode() + np.ascontiguousarray(array).tobytes()).digest()
