"""Read an `.onnx` file that somebody else made into a torch module, so that every pass works on it.

graph -> checked -> constants folded -> biases joined -> torch.fx, node by node. Operators with constant weights become
torch's layers (`onnx_layers`), the others calls of plain functions (`onnx_ops`), constants become buffers. The result
is a `torch.fx.GraphModule`: it trains, deep-copies, and goes through `torch.export` with its free axes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..export.model import Model
from ..export.trace import first_line
from ..runtime.artifact import Port
from ..runtime.errors import EdgepressError, ModelError, UnsupportedError
from .onnx_file import Graph, Node, read_graph
from .onnx_fold import arguments, attributes, fold, handed, join_biases
from .onnx_layers import LAYERS, Layer
from .onnx_names import identifiers, module_names
from .onnx_ops import SEVERAL_OUTPUTS, function_for
from .onnx_signature import TENSOR, signature
from .onnx_values import as_tensor

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
              "QLinearConv", "QLinearMatMul")  # fmt: skip

# What may go wrong when a damaged graph is computed: torch's and Python's own ways to refuse an argument.
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)

# How long the free axes of an example are (the first axis always 2), tried in turn: an image must outlive its poolings.
_LENGTHS = (2, 32, 64, 224)


def read_onnx(path: Path) -> Model:
    """Read a float `.onnx` file into a Model that computes the same, its weights in torch's own layers.

    Input and output names that are no Python identifiers are changed (`input.1` -> `input_1`), for the module is
    called with them: the Model's names are the ones to use, in its data too. Axes are named as in the file; an axis
    without a name is `batch` where it is an input's first, else `INPUT_AXIS`. The example is seeded: floats normal,
    ints and bools 0 or 1 with a 1 first in each row (so a mask is never empty), free axes 2 long, or longer where 2
    cannot pass. Layers are named after the file's weights, scopes or nodes, so a report can name them.

    Raises ModelError where the file is missing, damaged or no ONNX; UnsupportedError where it is quantized already, or
    has operators or attributes that are not known, all of them named.

    >>> read_onnx(Path("encoder.onnx")).example["input_ids"].shape
    torch.Size([2, 2])
    """
    graph, sha256 = read_graph(path)
    _refuse_quantized(path, graph)
    _refuse_unknown(path, graph)
    try:
        module = _Builder(join_biases(fold(graph))).build()
    except _FAILURES as error:
        raise ModelError(f"{path} has weights that do not fit its operators ({first_line(error)})") from error
    inputs, outputs = _port_names(graph)
    return Model(
        name=path.stem,
        module=module,
        example=_working_example(path, module, graph),
        outputs=tuple(outputs),
        axes={inputs[port.name]: axes for port in graph.inputs if (axes := _free_axes(port))},
        source={"kind": "onnx", "sha256": sha256},
    )


def _refuse_quantized(path: Path, graph: Graph) -> None:
    found = Counter(n.op for n in graph.nodes if n.op in _QUANTIZED or n.op.startswith("com.microsoft."))
    if found:
        ops = ", ".join(f"{op} ({count})" for op, count in found.items())
        raise UnsupportedError(f"{path} is already quantized, or fused for one engine: {ops}; bring the float file")


def _refuse_unknown(path: Path, graph: Graph) -> None:
    """Name every operator and attribute that is not known, at once, before any work is done."""
    read = {name for node in graph.nodes for name in node.inputs} | {port.name for port in graph.outputs}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node in graph.nodes:
        problem = _problem(node, graph.opset, read)
        if problem:
            found[problem].append(str(node))
    if found:
        ops = "; ".join(f"{what} ({', '.join(nodes)})" for what, nodes in found.items())
        raise UnsupportedError(f"{path} (opset {graph.opset}) has operators that are not known: {ops}; replace them")


def _problem(node: Node, opset: int, read: set[str]) -> str:
    function = function_for(node.op, opset)
    if function is None:
        return node.op
    problem = signature(function).problem(node.inputs, node.attributes)
    if problem:
        return f"{node.op} with {problem}"
    if node.op not in SEVERAL_OUTPUTS and any(name in read for name in node.outputs[1:]):
        return f"{node.op} with {len(node.outputs)} outputs"
    return ""


class _Builder:
    """Writes a folded graph as torch.fx, node by node; `values` holds the fx node or the constant behind each name."""

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, Any] = dict(graph.constants)
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.names = module_names(graph)
        self.shared: dict[tuple[Any, ...], nn.Parameter] = {}
        self.buffers: dict[str, str] = {}

    def build(self) -> fx.GraphModule:
        inputs, _ = _port_names(self.source)
        for port in self.source.inputs:
            self.values[port.name] = self.graph.placeholder(inputs[port.name])
        for node in self.source.nodes:
            if not self._layer(node):
                self._call(node)
            self._release(node)
        outputs = tuple(self._output(port) for port in self.source.outputs)
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        module = fx.GraphModule(self.root, self.graph, "OnnxModule")
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()
        return module.eval()

    def _layer(self, node: Node) -> bool:
        """Write the node as a layer; False where it is none."""
        layer = self._made(node)
        if layer is None:
            return False
        target = self.names[node.outputs[0]]
        _attach(self.root, target, self._tied(layer.module))
        x = self.values[node.inputs[LAYERS[node.op][0]]]
        if layer.before is not None:
            function, rest = layer.before
            x = self.graph.call_function(function, (x, *rest))
        self.values[node.outputs[0]] = self.graph.create_node("call_module", target, (x,), name=str(node))
        return True

    def _made(self, node: Node) -> Layer | None:
        if node.op not in LAYERS:
            return None
        data, make = LAYERS[node.op]
        weights = [self.values[name] if name else None for i, name in enumerate(node.inputs) if i != data]
        if not isinstance(self.values[node.inputs[data]], fx.Node) or not weights:
            return None
        if not all(w is None or isinstance(w, Tensor) for w in weights):
            return None
        return make(self.source.ranks.get(node.inputs[data]), *weights, **node.attributes)

    def _tied(self, module: nn.Module) -> nn.Module:
        """The module, with the parameter of an earlier layer where both hold the same matrix."""
        weight = module.weight
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)
            module.weight = self.shared.setdefault(key, weight)
        return module

    def _call(self, node: Node) -> None:
        """Write the node as a call of its function."""
        function = function_for(node.op, self.source.opset)
        assert function is not None
        wanted = signature(function)
        inputs = arguments(function, node, self.values.__getitem__)
        inputs = [self._held(node.inputs[i], v, wanted.kind(i)) for i, v in enumerate(inputs)]
        settings = {k: self._held(f"{node}_{k}", v, TENSOR) for k, v in attributes(node).items()}
        result = self.graph.create_node("call_function", function, tuple(inputs), settings, name=str(node))
        if node.op in SEVERAL_OUTPUTS:
            for i, name in enumerate(node.outputs):
                self.values[name] = self.graph.call_function(_item, (result, i))
        else:
            self.values[node.outputs[0]] = result

    def _held(self, name: str, value: Any, kind: str) -> Any:
        """A tensor as the buffer that holds it; what else an argument can be, as it is."""
        if not isinstance(value, Tensor):
            return value
        if name not in self.buffers:
            self.buffers[name] = f"constant_{len(self.buffers)}"
            self.root.register_buffer(self.buffers[name], value)
        return self.graph.get_attr(self.buffers[name])

    def _output(self, port: Port) -> fx.Node:
        """An output as a tensor of the type that the file declares; sizes have none of their own."""
        value = self._held(port.name, handed(self.values[port.name], TENSOR), TENSOR)
        if not port.dtype.startswith("int"):
            return value
        return self.graph.call_function(_typed, (value, getattr(torch, port.dtype)))

    def _release(self, node: Node) -> None:
        """Let go of the constants that no node after this one reads: a layer may hold a copy."""
        for name in node.inputs:
            self.uses[name] -= 1
            if not self.uses[name] and name in self.source.constants and isinstance(self.values[name], Tensor):
                self.values[name] = None


def _item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]


def _typed(value: Any, dtype: torch.dtype) -> Tensor:
    return as_tensor(value, dtype).to(dtype)


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, module)


def _port_names(graph: Graph) -> tuple[dict[str, str], list[str]]:
    """The inputs' names by the file's, and the outputs' names; no two alike, also where an output is an input."""
    names = identifiers(port.name for port in (*graph.inputs, *graph.outputs))
    return {port.name: name for port, name in zip(graph.inputs, names, strict=False)}, names[len(graph.inputs) :]


def _free_axes(port: Port) -> dict[int, str]:
    return {axis: identifiers([size])[0] for axis, size in enumerate(port.shape) if isinstance(size, str)}


def _working_example(path: Path, module: fx.GraphModule, graph: Graph) -> Mapping[str, Tensor]:
    """The first example that the module runs on."""
    failure: EdgepressError | None = None
    for length, whole in _tries(graph):
        example = _example(graph, length, whole)
        try:
            _Run(module, path).run(*example.values())
            return example
        except EdgepressError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _tries(graph: Graph) -> Iterator[tuple[int, tuple[int, int]]]:
    """Lengths of the free axes, and between what the integers lie: a table of one row has no 1, a divisor is no 0."""
    free = any(isinstance(size, str) for port in graph.inputs for size in port.shape[1:])
    whole = any("float" not in port.dtype for port in graph.inputs)
    for length in _LENGTHS if free else _LENGTHS[:1]:
        for bounds in [(0, 1), (0, 0), (1, 1)] if whole else [(0, 1)]:
            yield length, bounds


def _example(graph: Graph, length: int, whole: tuple[int, int]) -> dict[str, Tensor]:
    names, _ = _port_names(graph)
    generator = torch.Generator().manual_seed(0)
    example = {}
    for port in graph.inputs:
        shape = [s if isinstance(s, int) else length if axis else 2 for axis, s in enumerate(port.shape)]
        dtype: torch.dtype = getattr(torch, port.dtype)
        if dtype.is_floating_point:
            example[names[port.name]] = torch.randn(shape, generator=generator).to(dtype)
        else:
            value = torch.randint(whole[0], whole[1] + 1, shape, generator=generator)
            first = value[..., :1] if shape else value
            first.fill_(whole[1])
            example[names[port.name]] = value.to(dtype)
    return example


class _Run(fx.Interpreter):
    """Runs the module and says at which node it stopped."""

    def __init__(self, module: fx.GraphModule, path: Path) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would be written into our errors
        self.path = path

    def run_node(self, n: fx.Node) -> Any:
        try:
            with torch.no_grad():
                return super().run_node(n)
        except _FAILURES as error:
            raise ModelError(f"{self.path} cannot run: node {n.name!r} says {first_line(error)}") from error
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.path}, node {n.name!r}: {error}") from error
