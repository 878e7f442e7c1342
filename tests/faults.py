"""Faults to plant into an ONNX file: what goes wrong in exporters, one at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def planted(source: Path, target: Path, fault: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of the ONNX file with the fault in it."""
    model = onnx.load(str(source))
    before = model.SerializeToString()
    fault(model)
    assert model.SerializeToString() != before
    onnx.save(model, str(target))
    return target


def channels_swapped(operator: int) -> Callable[[onnx.ModelProto], None]:
    """The output channels of the n-th convolution, in reverse."""

    def fault(model: onnx.ModelProto) -> None:
        name = nodes(model, "Conv")[operator].input[1]
        change(model, name, lambda weight: weight[::-1])

    return fault


def zero_point_moved(operator: int, by: int) -> Callable[[onnx.ModelProto], None]:
    """What the n-th QuantizeLinear writes is read with another zero point."""

    def fault(model: onnx.ModelProto) -> None:
        written = nodes(model, "QuantizeLinear")[operator].output[0]
        reader = next(node for node in nodes(model, "DequantizeLinear") if node.input[0] == written)
        zero = array(model, reader.input[2])
        moved = numpy_helper.from_array((zero.astype(np.int32) + by).astype(zero.dtype), "moved_zero_point")
        model.graph.initializer.append(moved)
        reader.input[2] = "moved_zero_point"

    return fault


def one_scale_for_all_channels(weight_of: int) -> Callable[[onnx.ModelProto], None]:
    """The weight of the n-th convolution, rounded with the largest of its scales only."""

    def fault(model: onnx.ModelProto) -> None:
        name = nodes(model, "Conv")[weight_of].input[1]
        reader = next(node for node in nodes(model, "DequantizeLinear") if node.output[0] == name)
        weight, scale = array(model, reader.input[0]), array(model, reader.input[1])
        shape = (-1, *(1,) * (weight.ndim - 1))
        coarse = np.round(weight * scale.reshape(shape) / scale.max())
        change(model, reader.input[0], lambda old: coarse.astype(old.dtype))
        change(model, reader.input[1], lambda old: np.full_like(old, scale.max()))

    return fault


def columns_swapped(weight: str) -> Callable[[onnx.ModelProto], None]:
    """The outputs of a matrix product, by a part of its weight's name, in reverse."""

    def fault(model: onnx.ModelProto) -> None:
        names = [node.input[1] for node in nodes(model, "MatMul") if weight in node.input[1]]
        change(model, names[0], lambda values: values[:, ::-1])

    return fault


def epsilon_dropped(operator: int) -> Callable[[onnx.ModelProto], None]:
    """The n-th layer normalization divides by the deviation alone."""

    def fault(model: onnx.ModelProto) -> None:
        attribute = next(a for a in nodes(model, "LayerNormalization")[operator].attribute if a.name == "epsilon")
        attribute.f = 1e-12

    return fault


def relu_before_add(operator: int) -> Callable[[onnx.ModelProto], None]:
    """relu(a + b) of the n-th addition becomes relu(a) + b."""

    def fault(model: onnx.ModelProto) -> None:
        add = nodes(model, "Add")[operator]
        relu = next(node for node in nodes(model, "Relu") if node.input[0] == add.output[0])
        first, result = add.input[0], relu.output[0]
        relu.input[0], relu.output[0] = first, "rectified"
        add.input[0], add.output[0] = "rectified", result
        order = [node for node in model.graph.node if node is not add]
        order.insert(order.index(relu) + 1, add)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del model.graph.node[:]
        model.graph.node.extend(copies)

    return fault


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    """The graph's nodes of one kind, in their order."""
    return [node for node in model.graph.node if node.op_type == operator]


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    """An initializer's values."""
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def change(model: onnx.ModelProto, name: str, to: Callable[[np.ndarray], np.ndarray]) -> None:
    """Put other values into an initializer."""
    held = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(to(numpy_helper.to_array(held))), name))
