"""What the tests of lowering share: graphs of `edgepress` operators written by hand, lowered and run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from edgepress.export.onnx_lower import lower

Arrays = Mapping[str, np.ndarray]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@dataclass(frozen=True)
class Call:
    """A node: operator (with its domain, or ONNX's own), input names ("" for an absent one), output, attributes."""

    op: str
    inputs: Sequence[str]
    output: str
    settings: Mapping[str, int | Sequence[int]]


def ours(op: str, inputs: str, output: str = "y", **settings: int) -> Call:
    return Call(f"edgepress.{op}", inputs.split(), output, settings)


def lowered(calls: Sequence[Call], inputs: Arrays, constants: Arrays, outputs: str = "y") -> onnx.ModelProto:
    """The lowered file around these calls; `inputs` tell dtypes and shapes, the first axis is free."""
    values = {"": None}
    for name, array in (inputs | constants).items():
        tensor = ir.tensor(array, name=name) if name in constants else None
        dims = array.shape if tensor else ("batch", *array.shape[1:])
        kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        values[name] = ir.Value(name=name, shape=ir.Shape(dims), type=kind, const_value=tensor)
    first = next(iter(inputs.values()), np.float32(0))
    result = ir.DataType.from_numpy(first.dtype) if first.dtype.kind == "f" else ir.DataType.FLOAT
    nodes = []
    for call in calls:
        domain, _, op = call.op.rpartition(".")
        node = ir.node(op, [values[name] for name in call.inputs], dict(call.settings) or None, domain=domain)
        node.outputs[0].name = call.output
        node.outputs[0].type = ir.TensorType(result)
        values[call.output] = node.outputs[0]
        nodes.append(node)
    graph = ir.Graph(
        [values[name] for name in inputs], [values[name] for name in outputs.split()], nodes=nodes,
        initializers=[values[name] for name in constants], opset_imports={"": 21, "edgepress": 1}, name="test",
    )  # fmt: skip
    model = ir.Model(graph, ir_version=10)
    lower(model)
    for value, name in zip(graph.outputs, outputs.split(), strict=True):
        value.name = name
    return ir.to_proto(model)


def run(model: onnx.ModelProto, inputs: Arrays | None = None, *, optimize: bool = True) -> list[np.ndarray]:
    """What ONNX Runtime gives, on one thread, with all of its optimizations or none."""
    options = ort.SessionOptions()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs or {}))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def held(model: onnx.ModelProto, ending: str) -> np.ndarray:
    """The one constant of the file whose name ends so."""
    (found,) = (t for t in model.graph.initializer if t.name.endswith(ending))
    return numpy_helper.to_array(found)


def unpack(packed: np.ndarray, bits: int, width: int) -> np.ndarray:
    """The reference: byte i holds the values 2i (its lower nibble) and 2i + 1."""
    if bits == 8:
        return packed[..., :width]
    both = np.stack([packed & 15, packed >> 4], -1)
    return both.reshape(*packed.shape[:-1], -1)[..., :width]


def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng().standard_normal(shape) * scale).astype(np.float32)
