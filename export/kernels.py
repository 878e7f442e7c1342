"""Kernels: small ONNX files from which a board tells how fast it is, before a model is quantized for it.

Each is a chain of one operator, so that a call's own cost is shared. Weights are constants that the engine unfolds when
it opens the file: a file has a kilobyte, its layer megabytes. A product's speed depends on how often a weight is used,

    reuse = multiply-accumulates / weights        (rows of a MatMul, positions of a Conv)

and on how many weights there are; the grid spans both.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..runtime.probe import KERNELS, Kernel

_CONTRIB = "com.microsoft"
_BLOCK = 32
_MATMULS = [(rows, width) for width in (32, 128, 384) for rows in (1, 8, 64, 256)] + [(1, 1024), (8, 1024)]
_CONVS = [(16, 32, 3, 1), (16, 8, 3, 1), (64, 32, 3, 1), (64, 8, 3, 1), (64, 16, 1, 1), (64, 32, 3, 64), (64, 8, 3, 64)]
_ELEMENTS = (64, 4096, 65536)  # of an elementwise operator
_TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}

Made = tuple[Kernel, list[NodeProto], list[TensorProto], tuple[str, tuple[int, ...]]]


def write_kernels(folder: Path, activation: str) -> None:
    """Write the files and their list into a folder; `activation` is the type that the board's int8 kernels take.

    >>> write_kernels(Path("kernels"), "uint8")
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for kernel, nodes, weights, (dtype, shape) in _kernels(activation):
        x = helper.make_tensor_value_info("x0", _TYPES[dtype], shape)
        y = helper.make_tensor_value_info(f"x{kernel.repeats}", _TYPES[dtype], None)
        graph = helper.make_graph(nodes, "kernel", [x], [y], weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIB, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / kernel.file)
        found.append(asdict(kernel))
    (folder / KERNELS).write_text(json.dumps(found), encoding="utf-8")


def _kernels(activation: str) -> Iterator[Made]:
    yield _elementwise("Neg", "overhead", 8, 64)
    yield _elementwise("Neg", "call", 8, 1)
    for elements in _ELEMENTS:
        for op, kind in (
            ("Add", "elementwise"),
            ("Softmax", "softmax"),
            ("Gelu", "gelu"),
            ("LayerNormalization", "norm"),
        ):
            yield _elementwise(op, kind, elements, 16 if elements < 10_000 else 4)
    for rows, width in _MATMULS:
        for precision in ("float32", "int8", "int4"):
            yield _matmul(precision, rows, width)
    for channels, side, window, groups in _CONVS:
        for precision in ("float32", "int8"):
            yield _conv(precision, channels, side, window, groups, activation)


def _elementwise(op: str, kind: str, elements: int, repeats: int) -> Made:
    width = min(elements, 64)
    shape = (1, elements // width, width)
    extra = {"Add": ["c"], "LayerNormalization": ["c", "c"]}.get(op, [])
    domain = _CONTRIB if op == "Gelu" else ""
    nodes = [helper.make_node(op, [f"x{i}", *extra], [f"x{i + 1}"], domain=domain) for i in range(repeats)]
    weights = [numpy_helper.from_array(np.full(width, 0.5, np.float32), "c")] if extra else []
    kernel = Kernel(f"{kind}-{elements}-{repeats}.onnx", kind, "float32", elements, 1, elements, repeats)
    return kernel, nodes, weights, ("float32", shape)


def _matmul(precision: str, rows: int, width: int) -> Made:
    """A chain of square products, each with weights of its own, as the layers of a network have."""
    repeats = 16 if width < 128 else 4
    nodes, tensors = [], [_scalar("one", 1.0)]
    for i in range(repeats):
        if precision == "float32":
            nodes += [_filled(f"w{i}", (width, width), np.float32, 1 / width, tensors)]
            nodes += [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"])]
        elif precision == "int8":
            nodes += [_filled(f"w{i}", (width, width), np.int8, 1, tensors)]
            nodes += [
                helper.make_node("DynamicQuantizeMatMul", [f"x{i}", f"w{i}", "one"], [f"x{i + 1}"], domain=_CONTRIB)
            ]
        else:
            blocks = width // _BLOCK
            nodes += [_filled(f"w{i}", (width, blocks, _BLOCK // 2), np.uint8, 0x99, tensors)]
            nodes += [_filled(f"s{i}", (width * blocks,), np.float32, 1 / width, tensors)]
            nodes += [
                helper.make_node("MatMulNBits", [f"x{i}", f"w{i}", f"s{i}"], [f"x{i + 1}"], domain=_CONTRIB, K=width,
                                 N=width, bits=4, block_size=_BLOCK, accuracy_level=4)
            ]  # fmt: skip
    if precision == "int8":
        tensors[0] = _scalar("one", 1 / width)
    kernel = Kernel(
        f"matmul-{precision}-{rows}-{width}.onnx",
        "matmul",
        precision,
        rows,
        width * width,
        rows * width * width,
        repeats,
    )
    return kernel, nodes, tensors, ("float32", (1, rows, width))


def _conv(precision: str, channels: int, side: int, window: int, groups: int, activation: str) -> Made:
    shape = (channels, channels // groups, window, window)
    weights, positions, kind = int(np.prod(shape)), side * side, "conv" if groups == 1 else "depthwise"
    nodes, tensors = [], [_scalar("one", 1.0)]
    tensors += [numpy_helper.from_array(np.array(0, np.dtype(activation)), "zx")]
    tensors += [numpy_helper.from_array(np.array(0, np.int8), "zw")]
    settings = {"kernel_shape": [window, window], "pads": [window // 2] * 4, "group": groups}
    for i in range(4):
        if precision == "float32":
            nodes += [_filled(f"w{i}", shape, np.float32, channels / weights, tensors)]
            nodes += [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], **settings)]
        else:
            nodes += [_filled(f"w{i}", shape, np.int8, 1, tensors)]
            ports = [f"x{i}", "one", "zx", f"w{i}", "one", "zw", "one", "zx"]
            nodes += [helper.make_node("QLinearConv", ports, [f"x{i + 1}"], **settings)]
    dtype = "float32" if precision == "float32" else activation
    name = f"{kind}-{precision}-{channels}-{side}-{window}.onnx"
    kernel = Kernel(name, kind, precision, positions, weights, positions * weights, 4)
    return kernel, nodes, tensors, (dtype, (1, channels, side, side))


def _filled(name: str, shape: tuple[int, ...], dtype: type, value: float, tensors: list[TensorProto]) -> NodeProto:
    """A constant of one value, which the engine unfolds; its shape goes into `tensors`."""
    tensors.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    fill = numpy_helper.from_array(np.array([value], dtype))
    return helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=fill)


def _scalar(name: str, value: float) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)
