"""Lower quantized layers to what ONNX Runtime computes fast: QDQ, dynamic int8, block-wise weights, palettes.

    quantize_dequantize  ->  QuantizeLinear, DequantizeLinear
    dequantize           ->  DequantizeLinear (per channel)
    dynamic_linear       ->  DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add
    packed_linear        ->  the same, on constants that Cast, Sub, Mul, Reshape bring to int8 at load
    block_linear         ->  com.microsoft.MatMulNBits, Add
    block_embedding      ->  com.microsoft.GatherBlockQuantized
    widen                ->  Cast
    lookup               ->  Cast, Gather, Reshape of constants: one float weight when ONNX Runtime has loaded it

Specs: onnx.ai operators, opset 21; ONNX Runtime's contrib operators for the blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, count

import numpy as np
import onnx_ir as ir

DOMAIN = "edgepress"
CONTRIB = "com.microsoft"
# int8 products inside MatMulNBits; without it the operator is slower than float.
ACCURACY_LEVEL = 4


@dataclass
class Lowering:
    """A graph in the making: the nodes that replace one node, and what neighbours may share."""

    graph: ir.Graph
    nodes: list[ir.Node] = field(default_factory=list)
    quantized: dict[ir.Value, tuple[ir.Value, ...]] = field(default_factory=dict)

    def op(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: int
    ) -> tuple:
        node = ir.node(op_type, list(inputs), attributes or None, domain=domain, num_outputs=outputs)
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, array: np.ndarray, wanted: str) -> ir.Value:
        """An initializer of this name, or of the next free one; layers that share a weight share what it becomes."""
        held = self.graph.initializers
        names = chain([wanted], (f"{wanted}_{i}" for i in count(1)))
        name = next(n for n in names if n not in held or _equal(_array(held[n]), array))
        if name not in held:
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            self.graph.register_initializer(value)
        return held[name]


def lower(model: ir.Model) -> None:
    """Replace every `edgepress` node of the graph, in place, and drop the weights that no node reads any more."""
    lowering = Lowering(model.graph)
    for node in [n for n in model.graph if n.domain == DOMAIN]:
        lowering.nodes = []
        result = LOWER[node.op_type](node, lowering)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], lowering.nodes, [node.outputs[0]], [result])
    drop_unread(model.graph)
    _look_up_rows(model.graph)
    _widen_rows(model.graph)
    _fold_transposes(model.graph)
    _pool_globally(model.graph)
    model.graph.opset_imports.pop(DOMAIN, None)
    model.graph.opset_imports[CONTRIB] = 1


def drop_unread(graph: ir.Graph) -> None:
    """Drop the initializers that no node reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None, f"{value.name} is no constant"
    return value.const_value.numpy()


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)


def _inputs(node: ir.Node, number: int) -> list[ir.Value | None]:
    """A node's inputs; the exporter leaves out optional ones at the end."""
    return [*node.inputs, *[None] * (number - len(node.inputs))]


def _quantize_dequantize(node: ir.Node, to: Lowering) -> ir.Value:
    x, scale, zero = node.inputs
    (q,) = to.op("QuantizeLinear", x, scale, zero)
    (y,) = to.op("DequantizeLinear", q, scale, zero)
    return y


def _dequantize(node: ir.Node, to: Lowering) -> ir.Value:
    values, scale, zero = _inputs(node, 3)
    assert values is not None
    assert scale is not None
    if zero is None:  # ONNX Runtime's integer Gemm wants it written out
        zero = to.constant(np.zeros(_array(scale).shape, _array(values).dtype), f"{scale.name}_zero")
    (y,) = to.op("DequantizeLinear", values, scale, zero, axis=node.attributes["axis"].as_int())
    return y


def _dynamic_linear(node: ir.Node, to: Lowering) -> ir.Value:
    x, values, scale, bias = _inputs(node, 4)
    assert values is not None
    return _dynamic(to, x, to.constant(np.ascontiguousarray(_array(values).T), f"{values.name}_t"), scale, bias)


def _packed_linear(node: ir.Node, to: Lowering) -> ir.Value:
    x, values, multiplier, zero, scale, bias = _inputs(node, 6)
    assert values is not None
    assert multiplier is not None
    assert zero is not None
    block = node.attributes["block"].as_int()
    rows, width = _array(values).shape

    def number(value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        packed = np.ascontiguousarray(_array(value).T).reshape(shape).astype(ir.DataType.UINT4.numpy())
        return to.op("Cast", to.constant(packed, f"{value.name}_packed"), to=int(ir.DataType.INT32))[0]

    # all of it constants: an engine folds them to int8 once, when it loads the file
    blocks = width // block
    (v,) = to.op("Sub", number(values, (blocks, block, rows)), number(zero, (blocks, 1, rows)))
    (v,) = to.op("Mul", v, number(multiplier, (blocks, 1, rows)))
    (v,) = to.op("Reshape", v, to.constant(np.array([width, rows]), f"shape_{width}_{rows}"))
    (v,) = to.op("Cast", v, to=int(ir.DataType.INT8))
    return _dynamic(to, x, v, scale, bias)


def _dynamic(
    to: Lowering, x: ir.Value | None, weight: ir.Value, scale: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    """`s_x·s_w·((Q_x − z_x) V) + b`; weight: int8 (in, out)."""
    assert x is not None
    assert scale is not None
    if x not in to.quantized:  # query, key and value read the same x: quantize it once
        to.quantized[x] = to.op("DynamicQuantizeLinear", x, outputs=3)
    q, x_scale, x_zero = to.quantized[x]
    (total,) = to.op("MatMulInteger", q, weight, x_zero)
    (y,) = to.op("Cast", total, to=int(ir.DataType.FLOAT))
    (step,) = to.op("Mul", x_scale, scale)
    (y,) = to.op("Mul", y, step)
    return y if bias is None else to.op("Add", y, bias)[0]


def _block_linear(node: ir.Node, to: Lowering) -> ir.Value:
    x, values, scale, zero, bias = _inputs(node, 5)
    assert values is not None
    assert scale is not None
    bits, block = node.attributes["bits"].as_int(), node.attributes["block"].as_int()
    q = _array(values)
    rows, width = q.shape
    blocks = -(-width // block)
    padded = np.zeros((rows, blocks * block), np.uint8)
    padded[:, :width] = q
    weight = to.constant(pack(padded, bits).reshape(rows, blocks, block * bits // 8), f"{values.name}_packed")
    scales = to.constant(_array(scale).reshape(-1).astype(np.float32), f"{scale.name}_flat")
    points = None
    if zero is not None:
        points = to.constant(pack(_array(zero), bits).reshape(-1), f"{zero.name}_packed")
    (y,) = to.op(
        "MatMulNBits", x, weight, scales, points, domain=CONTRIB,
        K=width, N=rows, bits=bits, block_size=block, accuracy_level=ACCURACY_LEVEL,
    )  # fmt: skip
    return y if bias is None else to.op("Add", y, bias)[0]


def _block_embedding(node: ir.Node, to: Lowering) -> ir.Value:
    ids, values, scale, zero = _inputs(node, 4)
    assert values is not None
    assert scale is not None
    bits, block = node.attributes["bits"].as_int(), node.attributes["block"].as_int()
    width = _array(values).shape[-1]
    table = to.constant(pack(_array(values), bits), f"{values.name}_packed")
    points = None if zero is None else to.constant(pack(_array(zero), bits), f"{zero.name}_packed")
    (y,) = to.op(
        "GatherBlockQuantized", table, ids, scale, points, domain=CONTRIB,
        gather_axis=0, quantize_axis=1, bits=bits, block_size=block,
    )  # fmt: skip
    if bits == 4 and width % 2:  # an odd row is packed with one value more
        first, last, axis = (to.constant(np.array([i]), f"int_{i}") for i in (0, width, -1))
        (y,) = to.op("Slice", y, first, last, axis)
    return y if _array(scale).dtype == np.float32 else to.op("Cast", y, to=int(ir.DataType.FLOAT))[0]


def _widen(node: ir.Node, to: Lowering) -> ir.Value:
    return to.op("Cast", node.inputs[0], to=int(ir.DataType.FLOAT))[0]


def _lookup(node: ir.Node, to: Lowering) -> ir.Value:
    index, palette = node.inputs
    assert index is not None
    assert palette is not None
    parts = zip(np.array_split(_array(index), len(_array(palette))), _array(palette), strict=True)
    names = f"{index.name}_packed", f"{palette.name}_values"
    gathered = [_gather(part, values, names, to) for part, values in parts if part.size]
    return gathered[0] if len(gathered) == 1 else to.op("Concat", *gathered, axis=0)[0]


def _gather(index: np.ndarray, palette: np.ndarray, names: tuple[str, str], to: Lowering) -> ir.Value:
    """`palette[index]`, the index in 4 or 8 bits; at 2 bits, two of them in 4, which stand for a pair of values."""
    pairs = palette.size == 4 and index.size % 2 == 0
    codes, values = index, palette
    if pairs:
        first, second = np.arange(16) & 3, np.arange(16) >> 2
        codes = index.reshape(-1)[0::2] | index.reshape(-1)[1::2] << 2
        values = np.stack([palette[first], palette[second]], axis=1)
    packed = codes if len(values) > 16 else codes.astype(ir.DataType.UINT4.numpy())
    (number,) = to.op("Cast", to.constant(packed, names[0]), to=int(ir.DataType.INT32))
    (y,) = to.op("Gather", to.constant(values, names[1]), number)
    return to.op("Reshape", y, to.constant(np.array(index.shape), f"{names[0]}_shape"))[0] if pairs else y


LOWER: dict[str, Callable[[ir.Node, Lowering], ir.Value]] = {
    "quantize_dequantize": _quantize_dequantize,
    "dequantize": _dequantize,
    "dynamic_linear": _dynamic_linear,
    "packed_linear": _packed_linear,
    "block_linear": _block_linear,
    "block_embedding": _block_embedding,
    "widen": _widen,
    "lookup": _lookup,
}


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned integers along the last axis, the lower nibble first; an odd row is padded with 0.

    >>> pack(np.array([[1, 2, 3]], np.uint8), 4)
    array([[33,  3]], dtype=uint8)
    """
    if bits == 8:
        return np.ascontiguousarray(values)
    assert bits == 4, "only 4 and 8 bits are stored"
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return values[..., 0::2] | (values[..., 1::2] << 4)


def _look_up_rows(graph: ir.Graph) -> None:
    """`Gather(Gather(palette, Cast(index)), ids) -> Gather(palette, Cast(Gather(index, ids)))`.

    An embedding reads few of its rows: an engine then keeps a byte for each of its numbers, not a float.
    """
    for node in [n for n in graph if n.op_type == "Gather"]:
        table, ids = node.inputs
        look = table.producer() if table is not None else None
        if look is None or look.op_type != "Gather" or table is None or len(table.uses()) != 1:
            continue
        if any(n.attributes["axis"].as_int() for n in (node, look) if "axis" in n.attributes):
            continue
        palette, number = look.inputs
        cast = number.producer() if number is not None else None
        if palette is None or palette.const_value is None or cast is None or cast.op_type != "Cast":
            continue
        index = cast.inputs[0]
        if index is None or index.const_value is None or index.dtype not in (ir.DataType.UINT4, ir.DataType.UINT8):
            continue
        lowering = Lowering(graph)
        if index.dtype == ir.DataType.UINT4:  # no engine gathers these
            (index,) = lowering.op("Cast", index, to=int(ir.DataType.UINT8))
        (rows,) = lowering.op("Gather", index, ids, axis=0)
        (rows,) = lowering.op("Cast", rows, to=int(ir.DataType.INT32))
        (y,) = lowering.op("Gather", palette, rows)
        ir.convenience.replace_nodes_and_values(graph, node, [node, look, cast], lowering.nodes, [node.outputs[0]], [y])


def _widen_rows(graph: ir.Graph) -> None:
    """`Gather(Cast(table), ids) -> Cast(Gather(table, ids))`: an engine would keep the whole table as floats."""
    for node in [n for n in graph if n.op_type == "Gather"]:
        table, ids = node.inputs
        cast = table.producer() if table is not None else None
        if table is None or cast is None or cast.op_type != "Cast" or len(table.uses()) != 1:
            continue
        held = cast.inputs[0]
        if held is None or held.const_value is None or held.dtype != ir.DataType.FLOAT16:
            continue
        lowering = Lowering(graph)
        (rows,) = lowering.op("Gather", held, ids)
        (y,) = lowering.op("Cast", rows, to=int(ir.DataType.FLOAT))
        ir.convenience.replace_nodes_and_values(graph, node, [node, cast], lowering.nodes, [node.outputs[0]], [y])


def _fold_transposes(graph: ir.Graph) -> None:
    """`Transpose(DequantizeLinear(Q)) -> DequantizeLinear(Qᵀ)`: engines fuse a product only with the latter."""
    for node in list(graph):
        source = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if source is None or source.op_type != "DequantizeLinear" or source.inputs[0] is None:
            continue
        values = source.inputs[0]
        if values.const_value is None or _array(values).ndim != 2 or len(source.outputs[0].uses()) != 1:
            continue
        if "perm" in node.attributes and tuple(node.attributes["perm"].as_ints()) != (1, 0):
            continue
        lowering = Lowering(graph)
        weight = lowering.constant(np.ascontiguousarray(_array(values).T), f"{values.name}_t")
        axis = 1 - source.attributes["axis"].as_int()
        (y,) = lowering.op("DequantizeLinear", weight, *source.inputs[1:], axis=axis)
        ir.convenience.replace_nodes_and_values(graph, node, [node, source], lowering.nodes, [node.outputs[0]], [y])
        if not values.uses():
            assert values.name is not None
            del graph.initializers[values.name]


def _pool_globally(graph: ir.Graph) -> None:
    """`ReduceMean over (2, 3) -> GlobalAveragePool, Flatten`: engines have int8 kernels only for the latter.

    A Quantize/Dequantize pair behind the mean is repeated before the Flatten: each of the two then has its own.
    """
    for node in [n for n in graph if n.op_type == "ReduceMean"]:
        x, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
        keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        if x is None or x.shape is None or len(x.shape) != 4 or axes is None or axes.const_value is None or keep:
            continue
        if x.dtype == ir.DataType.DOUBLE:  # ONNX Runtime pools no double
            continue
        if sorted(int(a) % 4 for a in _array(axes).ravel()) != [2, 3]:
            continue
        lowering = Lowering(graph)
        (y,) = lowering.op("GlobalAveragePool", x)
        quantize = _only_user(node, "QuantizeLinear")
        dequantize = quantize and _only_user(quantize, "DequantizeLinear")
        if quantize and dequantize:
            pair = (("QuantizeLinear", quantize.inputs[1:]), ("DequantizeLinear", dequantize.inputs[1:]))
            for op_type, parameters in pair:
                (y,) = lowering.op(op_type, y, *parameters)
        (y,) = lowering.op("Flatten", y)
        ir.convenience.replace_nodes_and_values(graph, node, [node], lowering.nodes, [node.outputs[0]], [y])


def _only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    users = [use.node for use in node.outputs[0].uses()]
    return users[0] if len(users) == 1 and users[0].op_type == op_type else None
