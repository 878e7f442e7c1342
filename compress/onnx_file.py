"""The `.onnx` file as plain values: ports, nodes and constants, checked, with the protobuf left behind."""

import ast
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, TypeProto, ValueInfoProto, inliner, numpy_helper
from torch import Tensor

from ..export.trace import first_line
from ..runtime.artifact import Port
from ..runtime.errors import ModelError, UnsupportedError

# ONNX element type -> torch dtype. What is not here (strings, float8, int4) is refused.
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}

_SMALL = 64  # constants up to this many values stay visible to shape inference
_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter notes here which module a node came from


@dataclass(frozen=True)
class Node:
    """One operator: an absent input is `""`; `scope` is the module that torch's exporter says it came from, or `""`."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    scope: str = ""

    def __str__(self) -> str:
        return self.name or (self.outputs[0] if self.outputs else self.op)


@dataclass(frozen=True)
class Graph:
    """A graph. Constants are tensors (or lists of ints, once folded); `ranks` are those that could be inferred."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Any]
    opset: int
    ranks: Mapping[str, int]


def read_graph(path: Path) -> tuple[Graph, str]:
    """Read a file, and the data files beside it, into a Graph and their sha256 (one digest over all of them).

    Raises ModelError where the file is missing, damaged or no ONNX, and where external data lies anywhere but in the
    file's own folder. Raises UnsupportedError for ports and constants that torch has no type for.
    """
    raw, model = _parse(path)
    digest = hashlib.sha256(raw)
    del raw
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        for data in sorted({_data_file(path, t) for t in model.graph.initializer if _is_external(t)}):
            with data.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)  # goes on with the same digest, a piece at a time
        return _graph(path, model), digest.hexdigest()
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        raise ModelError(f"{path} is damaged ({first_line(error)}); export the model again") from error


def _parse(path: Path) -> tuple[bytes, onnx.ModelProto]:
    try:
        raw = path.read_bytes()
        model = onnx.load_model_from_string(raw)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except DecodeError as error:
        raise ModelError(f"{path} is no ONNX file, or a damaged one; export the model again") from error
    if not model.graph.output or not model.opset_import:
        raise ModelError(f"{path} is no ONNX file, or a damaged one: it has no graph; export the model again")
    return raw, model


def _graph(path: Path, model: onnx.ModelProto) -> Graph:
    if model.graph.sparse_initializer:
        raise UnsupportedError(f"{path} has sparse weights; export the model with dense ones")
    constants: dict[str, Any] = {t.name: _tensor(path, t) for t in model.graph.initializer}
    inputs = tuple(_port(path, v) for v in model.graph.input if v.name not in constants)
    for info in model.graph.input:
        if info.name not in constants and not info.type.tensor_type.HasField("shape"):
            raise UnsupportedError(f"{path} does not tell the rank of its input {info.name!r}; export it with shapes")
    outputs = tuple(_port(path, v) for v in model.graph.output)
    nodes = []
    for node in _nodes(path, model):
        value = _constant(node)
        if value is None:
            nodes.append(node)
        else:
            constants[node.outputs[0]] = value
    _check_order(path, inputs, constants, nodes, outputs)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return Graph(inputs, outputs, tuple(nodes), constants, opset, _ranks(model))


def _nodes(path: Path, model: onnx.ModelProto) -> Iterator[Node]:
    for node in model.graph.node:
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        attributes = {a.name: _attribute(path, a) for a in node.attribute}
        scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
        yield Node(op, node.name, tuple(node.input), tuple(node.output), attributes, _scope(scopes))


def _scope(text: str) -> str:
    """`"['', 'encoder', 'encoder.query', 'linear']"` -> `encoder.query`."""
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _attribute(path: Path, attribute: AttributeProto) -> Any:
    """An attribute as str, int, float, list or tensor; a graph is None, for no operator that takes one is read."""
    if attribute.type == AttributeProto.TENSOR:
        return _tensor(path, attribute.t)
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _constant(node: Node) -> Tensor | None:
    """What a Constant node holds; None for every other node."""
    if node.op != "Constant" or not node.outputs or len(node.attributes) != 1:
        return None
    kind, value = next(iter(node.attributes.items()))
    dtypes = {"value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64,
              "value_ints": torch.int64}  # fmt: skip
    if kind == "value" and isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=dtypes[kind]) if kind in dtypes else None


def _tensor(path: Path, proto: TensorProto) -> Tensor:
    if proto.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(proto.data_type)
        raise UnsupportedError(f"{path} holds {proto.name!r} as {kind}; bring the float file it was made from")
    dtype, shape = DTYPES[proto.data_type], tuple(proto.dims)
    if not _is_external(proto):
        array = numpy_helper.to_array(proto)
        array = array.view(np.uint16) if dtype == torch.bfloat16 else array
        return torch.from_numpy(np.array(array)).view(dtype).reshape(shape)
    size = math.prod(shape) * dtype.itemsize
    file, place = _data_file(path, proto), {e.key: e.value for e in proto.external_data}
    offset = int(place.get("offset", 0))
    if offset < 0 or offset + size > file.stat().st_size:
        raise ModelError(f"{file} is too short for {proto.name!r}, {size} bytes at {offset}; copy it again")
    return torch.from_numpy(np.fromfile(file, np.uint8, size, offset=offset)).view(dtype).reshape(shape)


def _is_external(proto: TensorProto) -> bool:
    return proto.data_location == TensorProto.EXTERNAL


def _data_file(path: Path, proto: TensorProto) -> Path:
    """The file that a tensor's bytes lie in; a name or a link that leads out of the model's folder is refused."""
    location = next((e.value for e in proto.external_data if e.key == "location"), "")
    file = path.parent / location
    if Path(location).name != location or file.resolve().parent != path.parent.resolve():
        raise ModelError(f"{path} keeps {proto.name!r} in {location!r}; expected a file in the model's own folder")
    if not file.is_file():
        raise ModelError(f"{file} is missing: {path.name} keeps its weights there; copy it too")
    return file


def _port(path: Path, info: ValueInfoProto) -> Port:
    """A port; an output may tell no shape. An axis without a name is `batch` if it is the first, else `NAME_AXIS`."""
    kind: TypeProto.Tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise UnsupportedError(f"{path} has the port {info.name!r}, no tensor of a type that torch has")
    dims = kind.shape.dim
    shape = tuple(
        d.dim_value if d.dim_value > 0 else d.dim_param or ("batch" if axis == 0 else f"{info.name}_{axis}")
        for axis, d in enumerate(dims)
    )
    return Port(info.name, str(DTYPES[kind.elem_type]).removeprefix("torch."), shape)


def _check_order(
    path: Path, inputs: tuple[Port, ...], constants: Mapping[str, Any], nodes: list[Node], outputs: tuple[Port, ...]
) -> None:
    known = {"", *constants, *(port.name for port in inputs)}
    for node in nodes:
        if not node.outputs:
            raise ModelError(f"{path} is damaged: node {str(node)!r} has no outputs; export the model again")
        for name in node.inputs:
            if name not in known:
                raise ModelError(f"{path} is damaged: node {str(node)!r} reads {name!r}, which nothing before it makes")
        known.update(node.outputs)
    for port in outputs:
        if port.name not in known:
            raise ModelError(f"{path} is damaged: nothing makes its output {port.name!r}; export the model again")


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Ranks of the values, as far as ONNX can infer them, without carrying the weights through the inference."""
    graph = model.graph
    given = {v.name for v in graph.input}
    small = [t for t in graph.initializer if math.prod(t.dims) <= _SMALL]
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _SMALL and tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(small)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = model.graph  # what it says itself then has to do
    known = (v for v in (*graph.input, *graph.value_info) if v.type.tensor_type.HasField("shape"))
    return {v.name: len(v.type.tensor_type.shape.dim) for v in known}
