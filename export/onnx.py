"""Write a model as ONNX: torch's dynamo exporter, our lowering of quantized layers, one file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import values
from torch import Tensor

from ..runtime.errors import UnsupportedError
from . import palette, quantized  # noqa: F401 - define the edgepress operators
from .direct import spare
from .model import Model
from .onnx_leaf import LEAF, fill
from .onnx_lower import DOMAIN, drop_unread, lower
from .onnx_save import save
from .skeleton import hollow_trace, leaves, outside
from .trace import first_line, quiet

OPSET = 21
MAX_BYTES = 2_000_000_000  # protobuf's limit for one message is 2 GiB
FILE = "model.onnx"


def write(model: Model, folder: Path) -> Path:
    """Write `model.onnx` into `folder` and return its path; input and output names are the model's, axes stay free.

    Raises UnsupportedError where the model cannot be traced or an operator not be said in ONNX, an axis cannot stay
    free or the file would pass 2 GB; ModelError where the module does not run on its own example.
    """
    graph = _graph(model)
    lower(graph)
    _name_ports(graph, model)
    _strip(graph)
    size = sum(v.const_value.nbytes for v in graph.graph.initializers.values() if v.const_value is not None)
    if size > MAX_BYTES:
        raise UnsupportedError(f"the weights take {size / 1e9:.1f} GB, one ONNX file holds 2 GB; quantize them first")
    path = folder / FILE
    save(graph, path)
    return path


@dataclass(frozen=True)
class _Skeleton:
    """A graph with open leaves, and what a model must have in common with the traced one to be written by it."""

    graph: ir.Model
    leaves: frozenset[str]
    swapped: frozenset[str]
    outside: Mapping[str, tuple[Tensor, int]]  # tensors with the version they had; writing into one raises it

    def fits(self, model: Model) -> bool:
        """True where the model differs from the traced one in nothing but its leaves."""
        if not model.swapped ^ self.swapped <= self.leaves <= leaves(model.module).keys():
            return False
        now = outside(model.module, self.leaves)
        return now.keys() == self.outside.keys() and all(
            _version(was) == version and (now[name] is was or _same(now[name], was))
            for name, (was, version) in self.outside.items()
        )


def _graph(model: Model) -> ir.Model:
    """The model in ONNX operators, our own (`edgepress::`) among them, traced where no trace of it is kept."""
    kept = model.traced.kept
    if not isinstance(kept, _Skeleton) or not kept.fits(model):
        program, chosen = hollow_trace(model)
        spare(program)
        held = {name: (tensor, _version(tensor)) for name, tensor in outside(model.module, chosen).items()}
        graph = _translated(program, model.name)
        kept = _Skeleton(graph, frozenset(chosen), model.swapped, held)
        model.traced.kept = kept if chosen else None
    filled = kept.graph.clone()
    fill(filled.graph, model.module)
    return filled


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _translated(program: Any, name: str) -> ir.Model:
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False, custom_translation_table=_translations()
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UnsupportedError(f"{name} cannot be said in ONNX: {_cause(error)}") from error
    assert exported is not None
    drop_unread(exported.model.graph)
    return exported.model


def _translations() -> dict[Any, Any]:
    """Each of our operators becomes one node of the same name, to be lowered when the weights are in hand."""
    return {
        torch.ops.edgepress.leaf.default: _node(LEAF, ("x",), ("name", "width", "gathers")),
        torch.ops.edgepress.quantize_dequantize.default: _node("quantize_dequantize", ("x", "scale", "zero"), ()),
        torch.ops.edgepress.dequantize.default: _node("dequantize", ("values", "scale", "zero"), ("bits", "axis")),
        torch.ops.edgepress.dynamic_linear.default: _node("dynamic_linear", ("x", "values", "scale", "bias"), ()),
        torch.ops.edgepress.packed_linear.default: _node(
            "packed_linear", ("x", "values", "multiplier", "zero", "scale", "bias"), ("block",)
        ),
        torch.ops.edgepress.block_linear.default: _node(
            "block_linear", ("x", "values", "scale", "zero", "bias"), ("bits", "block")
        ),
        torch.ops.edgepress.block_embedding.default: _node(
            "block_embedding", ("ids", "values", "scale", "zero"), ("bits", "block")
        ),
        torch.ops.edgepress.widen.default: _node("widen", ("values",), ()),
        torch.ops.edgepress.lookup.default: _node("lookup", ("index", "palette"), ()),
    }


def _node(name: str, inputs: tuple[str, ...], attributes: tuple[str, ...]) -> Any:
    schema = onnx.defs.OpSchema
    optional, kinds = schema.FormalParameterOption.Optional, schema.AttrType
    tensors = [f"tensor({t})" for t in ("float", "float16", "int8", "uint8", "int32", "int64")]
    op = values.Op(
        values.Opset(DOMAIN, 1),
        name,
        schema(
            name,
            DOMAIN,
            1,
            inputs=[schema.FormalParameter(i, f"T{n}", param_option=optional) for n, i in enumerate(inputs)],
            outputs=[schema.FormalParameter("y", "T")],
            type_constraints=[(t, tensors, "") for t in ("T", *(f"T{n}" for n in range(len(inputs))))],
            attributes=[schema.Attribute(a, kinds.STRING if a == "name" else kinds.INT) for a in attributes],
        ),
    )

    def translate(*arguments: Any) -> Any:
        tensors, settings = arguments[: len(inputs)], arguments[len(inputs) :]
        return op(*tensors, **dict(zip(attributes, settings, strict=True)))

    return translate


def _name_ports(graph: ir.Model, model: Model) -> None:
    """Give ports and free axes the model's names."""
    taken = set(model.outputs)
    for value in _all_values(graph):
        if value.name in taken:  # an inner value must not carry a port's name
            value.name = f"{value.name}_inner"
    symbols: dict[str, str] = {}
    for value, name in zip(graph.graph.inputs, model.example, strict=True):
        value.name = name
        assert value.shape is not None
        for axis, label in model.axes.get(name, {}).items():
            symbols[str(value.shape[axis])] = label
    for value, name in zip(graph.graph.outputs, model.outputs, strict=True):
        value.name = name
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_rename(dim, symbols) for dim in value.shape])


def _rename(dim: Any, symbols: dict[str, str]) -> int | str:
    if isinstance(dim, int):
        return dim
    return re.sub(r"[A-Za-z_]\w*", lambda m: symbols.get(m.group(), m.group()), str(dim.value))


def _all_values(graph: ir.Model) -> list[ir.Value]:
    return [*graph.graph.initializers.values(), *(v for node in graph.graph for v in node.outputs)]


def _strip(graph: ir.Model) -> None:
    """Drop what only a debugger of the exporter reads: it is half of a small file."""
    graph.graph.name = "main"
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    graph.functions.clear()
    for node in graph.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*_all_values(graph), *graph.graph.inputs):
        value.metadata_props.clear()
        value.doc_string = None
    used = {node.domain for node in graph.graph}
    for domain in [d for d in graph.graph.opset_imports if d not in used | {""}]:
        del graph.graph.opset_imports[domain]
    # inferred inner shapes are not needed to run
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None


def _cause(error: BaseException) -> str:
    """The innermost reason; the exporter wraps it in reports of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
