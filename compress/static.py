"""Static int8: weights per channel, activations with ranges calibrated beforehand.

    x ≈ s_x·(Q_x − z_x) with fixed s_x, z_x;   W ≈ s_w·Q_w;   y = s_x·s_w·Σ (Q_x − z_x) Q_w

Jacob et al., CVPR 2018. A value is quantized where a convolution or a linear layer reads or convolutions write it, and
stays quantized through additions, pooling and reshapes; what is left, as softmax and layer normalization, stays float.

`prepare` captures the graph, calibrates it and puts in layers that round as they run; `settle` turns those into
integers. Between the two, qat.py trains.
"""

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, fx, nn

from ..export import quantized  # noqa: F401 - defines the edgepress operators
from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UnknownName, UsageError
from .calibration import calibrate
from .capture import CONVOLUTIONS, add_constant, aten, capture, constant, tidy
from .data import Batch, Data
from .fake import FakeActivation, FakeChannels
from .observers import OBSERVERS, Observer
from .weights import per_channel

Activation = Literal["uint8", "int8"]

_DTYPES = {"uint8": torch.uint8, "int8": torch.int8}
_PRODUCTS = CONVOLUTIONS | {aten.linear.default}
# Engines compute these with the product before them, so no value between the two is quantized.
_FUSED = {aten.relu.default, aten.relu_.default}
# The values pass through unchanged: scale and zero point of the input hold for the output.
_MOVES = {
    aten.max_pool2d.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default,
    aten.transpose.int, aten.dropout.default, aten.contiguous.default, aten.clone.default, aten.squeeze.dim,
    aten.unsqueeze.default,
}  # fmt: skip
_ARITHMETIC = {
    aten.add.Tensor, aten.add_.Tensor, aten.cat.default, aten.mean.dim, aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default, aten.hardtanh.default, aten.hardtanh_.default,
}  # fmt: skip
_FLOW = _FUSED | _MOVES | _ARITHMETIC


@dataclass(frozen=True)
class StaticInt8:
    """Static int8 for convolutions and linear layers.

    `calibration` is one of minmax, percentile, entropy. `activation` is the integer type that the target's CPU is fast
    at: uint8 on x86, int8 on ARM. `reduce_range` keeps weights to 7 bits, for x86 CPUs without VNNI, whose 16-bit sums
    saturate. None leaves either to the device; without one, it is uint8 and 8 bits. A convolution (not a depthwise one)
    that adds up fewer than `min_products` products for an output stays float, as a 3x3 over one channel: int8 kernels
    are slower there.
    """

    calibration: str = "minmax"
    activation: Activation | None = None
    reduce_range: bool | None = None
    min_products: int = 16

    def __post_init__(self) -> None:
        if self.calibration not in OBSERVERS:
            raise UnknownName("calibration", self.calibration, OBSERVERS)
        if self.activation not in (None, *_DTYPES):
            raise UsageError(f"static_int8: activation = {self.activation!r}; expected uint8 or int8")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where it has nothing to quantize; raises DataError for calibration data that
        is missing, not finite, or does not run."""
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        chosen = replace(self, activation=self.activation or "uint8", reduce_range=bool(self.reduce_range))
        step = Step("static_int8", asdict(chosen), self.note(prepared))
        return model.then(settle(prepared), step)

    def prepare(self, model: Model, data: Data) -> fx.GraphModule | None:
        """The captured graph with layers in it that round as they run; None where there is nothing to quantize.

        Batch normalization is folded; the weights are parameters of the graph, which may be those of the model.
        """
        graph = capture(model)
        products = _products(graph, self.min_products)
        owners = _owners(graph.graph, products)
        if not owners:
            return None
        ranges = _calibrate(graph, dict.fromkeys(owners.values()), self.calibration, model.example, data.calibration)
        _make_parameters(graph)
        _round_activations(graph, products, owners, ranges, _DTYPES[self.activation or "uint8"])
        _round_weights(graph, products, bits=7 if self.reduce_range else 8)
        tidy(graph)
        return graph

    def note(self, prepared: nn.Module) -> str:
        """What was done, in words."""
        assert isinstance(prepared, fx.GraphModule)
        products = sum(len(node.users) for node, _ in _fakes(prepared, FakeChannels))
        values = len({node.target for node, _ in _fakes(prepared, FakeActivation)})
        return f"{products} layers at int8, per channel; {values} activations at {self.activation or 'uint8'}"


def settle(prepared: fx.GraphModule) -> fx.GraphModule:
    """The graph of `prepare`, changed in place: integers where layers rounded."""
    graph = prepared.graph
    for node, fake in _fakes(prepared, FakeActivation):
        with graph.inserting_before(node):
            constants = add_constant(prepared, fake.scale, "scale"), add_constant(prepared, fake.zero, "zero")
            call = graph.call_function(torch.ops.edgepress.quantize_dequantize.default, (node.args[0], *constants))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    for node, fake in _fakes(prepared, FakeChannels):
        _quantize_constants(prepared, list(node.users), fake)
    tidy(prepared)
    return prepared


Fake = TypeVar("Fake", FakeActivation, FakeChannels)


def _fakes(graph: fx.GraphModule, kind: type[Fake]) -> list[tuple[fx.Node, Fake]]:
    """The nodes that call a layer of this kind, with the layer."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    found = ((node, graph.get_submodule(node.target)) for node in nodes)
    return [(node, layer) for node, layer in found if isinstance(layer, kind)]


def _products(graph: fx.GraphModule, fewest: int) -> list[fx.Node]:
    """The convolutions and linear layers to quantize, in their order; weight[0] holds the products of one output."""
    found = []
    for node in graph.graph.nodes:
        weight = constant(graph, node.args[1]) if node.target in _PRODUCTS else None
        if weight is not None and (weight[0].numel() >= fewest or _is_depthwise(node, weight)):
            found.append(node)
    return found


def _is_depthwise(product: fx.Node, weight: Tensor) -> bool:
    groups = product.args[6] if len(product.args) > 6 else 1
    return isinstance(groups, int) and groups > 1 and weight.shape[1] == 1


def _owners(graph: fx.Graph, products: Collection[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The values to quantize; each with the value whose range it has (itself, or the one it was moved from)."""
    owners: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in products:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            owners.setdefault(source, source)
            tail = _tail(node)
            if node.target in CONVOLUTIONS and not _leaves(tail):
                owners[tail] = tail
        elif node.target in _FLOW and node not in owners and not _leaves(node):
            sources = [
                source for source in node.all_input_nodes if not isinstance(source.meta.get("val"), torch.SymInt)
            ]
            if sources and all(source in owners for source in sources):
                tail = _tail(node) if node.target in _ARITHMETIC else node
                owners[tail] = owners[sources[0]] if node.target in _MOVES else tail
    return owners


def _tail(node: fx.Node) -> fx.Node:
    """The activation function that alone reads `node`, or the node itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in _FUSED else node


def _leaves(node: fx.Node) -> bool:
    """True where the value only leaves the model: outputs stay float."""
    return all(user.op == "output" for user in node.users)


class _Watch(fx.Interpreter):
    """Runs the graph and shows the watched values to their observers."""

    def __init__(self, graph: fx.GraphModule, observers: dict[fx.Node, Observer]) -> None:
        super().__init__(graph)
        self.observers = observers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.observers:
            self.observers[n].update(result.detach().numpy())
        return result


def _calibrate(
    graph: fx.GraphModule, values: Iterable[fx.Node], method: str, inputs: Collection[str], calibration: Iterable[Batch]
) -> dict[fx.Node, tuple[float, float]]:
    """Run the batches and return the range of each value."""
    observers = {node: OBSERVERS[method]() for node in values}
    watch = _Watch(graph, observers)

    def run(batch: Mapping[str, Tensor]) -> None:
        watch.run(*(batch[name] for name in inputs))  # the graph takes its inputs in the example's order

    calibrate(run, inputs, calibration, "static_int8")
    return {node: observer.range() for node, observer in observers.items()}


def _make_parameters(graph: fx.GraphModule) -> None:
    """The weights and biases of all products as parameters, also those that were made by folding: they can learn."""
    for node in graph.graph.nodes:
        for read in node.args[1:3] if node.target in _PRODUCTS else ():
            if (value := constant(graph, read)) is not None:
                owner, _, name = read.target.rpartition(".")
                part = graph.get_submodule(owner)
                if name in part._buffers:
                    delattr(part, name)
                    part.register_parameter(name, nn.Parameter(value))


def _round_activations(
    graph: fx.GraphModule,
    products: Collection[fx.Node],
    owners: dict[fx.Node, fx.Node],
    ranges: dict[fx.Node, tuple[float, float]],
    dtype: torch.dtype,
) -> None:
    """A FakeActivation behind each value, before all that read it as integers; one for all values of an owner."""
    names = {owner: f"fake_activation_{i}" for i, owner in enumerate(ranges)}
    for owner, name in names.items():
        graph.add_submodule(name, FakeActivation(*scale_and_zero(*ranges[owner], dtype)))
    readers = {*products, *owners}
    heads = {node.all_input_nodes[0] for node in owners if node.target in _FUSED}
    for node, owner in owners.items():
        users = [u for u in node.users if u in readers or (u in heads and u.target in _ARITHMETIC)]
        with graph.graph.inserting_after(node):
            call = graph.graph.call_module(names[owner], (node,))
        for user in users:
            user.replace_input_with(node, call)


def _round_weights(graph: fx.GraphModule, products: Iterable[fx.Node], *, bits: int) -> None:
    """FakeChannels in the place of each weight, for all products that read it."""
    by_weight: dict[Any, list[fx.Node]] = {}
    for node in products:
        by_weight.setdefault(node.all_input_nodes[1].target, []).append(node)
    for i, (weight, nodes) in enumerate(by_weight.items()):
        name = f"fake_weight_{i}"
        graph.add_submodule(name, FakeChannels(operator.attrgetter(weight)(graph), bits))
        with graph.graph.inserting_before(nodes[0]):
            fake = graph.graph.call_module(name)
        for node in nodes:
            node.update_arg(1, fake)


def _quantize_constants(graph: fx.GraphModule, nodes: list[fx.Node], fake: FakeChannels) -> None:
    """A weight, and the biases of the products that read it, as integers.

    A bias counts in steps of s_x·s_w, as the int32 sums do. Where a channel's weights are 0, or next to nothing beside
    its bias, s_w is so large that the bias takes no more than 2^30 steps.
    """
    biases = [constant(graph, node.args[2]) if len(node.args) > 2 else None for node in nodes]
    steps = [constant(graph, node.all_input_nodes[0].args[1]) for node in nodes]  # of quantize_dequantize(x, s, z)
    least = torch.zeros(len(fake.weight))
    for bias, step in zip(biases, steps, strict=True):
        if bias is not None and step is not None:
            least = torch.maximum(least, bias.abs() / (step * 2**30))
    q = per_channel(fake.weight, bits=fake.bits, least=least)
    shared = _dequantized(graph, nodes[0], q.values, q.scale, "weight")
    for node, bias, step in zip(nodes, biases, steps, strict=True):
        node.update_arg(1, shared)
        if bias is not None and step is not None:
            counts = torch.round(bias.double() / (step.double() * q.scale.double())).to(torch.int32)
            node.update_arg(2, _dequantized(graph, node, counts, step * q.scale, "bias"))


def _dequantized(graph: fx.GraphModule, node: fx.Node, values: Tensor, scale: Tensor, name: str) -> fx.Node:
    """A node before `node` that dequantizes constants per output channel."""
    with graph.graph.inserting_before(node):
        arguments = (add_constant(graph, values, name), add_constant(graph, scale, f"{name}_scale"))
        bits = values.element_size() * 8
        return graph.graph.call_function(torch.ops.edgepress.dequantize.default, (*arguments, None, bits, 0))


def scale_and_zero(low: float, high: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`s = (max − min)/255`, `z = round(qmin − min/s)`; the range is widened to hold 0, which must be exact.

    Where nothing but 0 was seen the range is [0, 1]: fine enough for a bias, which counts in steps of s·s_w.
    """
    limits = torch.iinfo(dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else 1.0
    scale = max((high - low) / (limits.max - limits.min), 1e-12)
    zero = min(max(round(limits.min - low / scale), limits.min), limits.max)
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(zero, dtype=dtype)
