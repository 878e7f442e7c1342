"""Static int8: weights per channel, activations with ranges calibrated beforehand.

    x ≈ s_x·(Q_x − z_x) with fixed s_x, z_x;   W ≈ s_w·Q_w;   y = s_x·s_w·Σ (Q_x − z_x) Q_w

Jacob et al., CVPR 2018. A value is quantized where a convolution or a linear layer reads or convolutions write it, and
stays quantized through additions, pooling and reshapes; what is left, as softmax and layer normalization, stays float.

What is decided here is written into the graph in rounding.py.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ..export.model import Model
from ..export.trace import module_of
from ..runtime.artifact import Step
from ..runtime.errors import UnknownName, UsageError
from .calibration import calibrate
from .capture import CONVOLUTIONS, aten, capture, constant, parameter
from .data import Batch, Data
from .fake import FakeActivation
from .layers import fits, refuse_unfitting
from .observers import OBSERVERS, Observer
from .rounding import counts, insert, settle

Activation = Literal["uint8", "int8", "uint16"]

_DTYPES: dict[Activation, torch.dtype] = {"uint8": torch.uint8, "int8": torch.int8, "uint16": torch.uint16}
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
    of 8-bit products saturate. None leaves either to the device; without one, it is uint8 and 8 bits.
    `npu` are the types that the device's NPU takes. It computes a layer on integers only where it writes integers too:
    then all that layers write is quantized, and a network without convolutions has uint16 where that is one of them.
    A convolution (not a depthwise one) that adds up fewer than `min_products` products for an output stays float, as a
    3x3 over one channel: int8 kernels of CPUs are slower there. `include` and `exclude` are shell patterns over the
    names of the modules that hold them.
    """

    calibration: str = "minmax"
    activation: Activation | None = None
    reduce_range: bool | None = None
    npu: tuple[str, ...] = ()
    min_products: int = 16
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.calibration not in OBSERVERS:
            raise UnknownName("calibration", self.calibration, OBSERVERS)
        if self.activation not in (None, *_DTYPES):
            raise UsageError(f"static_int8: activation = {self.activation!r}; expected one of {', '.join(_DTYPES)}")
        if self.npu and {*([self.activation] if self.activation else _DTYPES)}.isdisjoint(self.npu):
            made = self.activation or ", ".join(_DTYPES)
            raise UsageError(f"static_int8: activations of {made}; the NPU takes {', '.join(self.npu)}")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where it has nothing to quantize; raises DataError for calibration data that
        is missing, not finite, or does not run."""
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        chosen = replace(self, activation=_activation(prepared), reduce_range=bool(self.reduce_range))
        step = Step("static_int8", asdict(chosen), self.note(prepared))
        return model.then(settle(prepared), step)

    def prepare(self, model: Model, data: Data) -> fx.GraphModule | None:
        """The captured graph with layers in it that round as they run; None where there is nothing to quantize.

        Batch normalization is folded; the weights are parameters of the graph, which may be those of the model.
        """
        graph = capture(model)
        products = _products(graph, self)
        owners = _owners(graph.graph, products, whole=bool(self.npu))
        if not owners:
            return None
        ranges = _calibrate(graph, dict.fromkeys(owners.values()), self.calibration, model.example, data.calibration)
        dtype = self._dtype(products)
        for node in graph.graph.nodes:
            for read in node.args[1:3] if node.target in _PRODUCTS else ():
                parameter(graph, read)
        scales = {owner: scale_and_zero(*limits, dtype) for owner, limits in ranges.items()}
        insert(
            graph,
            products,
            owners,
            _readers(products, owners, whole=bool(self.npu)),
            scales,
            bits=7 if self.reduce_range and dtype.itemsize == 1 else 8,
        )
        return graph

    def note(self, prepared: nn.Module) -> str:
        """What was done, in words."""
        assert isinstance(prepared, fx.GraphModule)
        products, values = counts(prepared)
        return f"{products} layers at int8, per channel; {values} activations at {_activation(prepared)}"

    def _dtype(self, products: Collection[fx.Node]) -> torch.dtype:
        """What is set; else the first type that the NPU takes, of linear layers alone uint16.

        What transformers add up has outliers: MiniLM keeps a cosine of .9994 with uint16, .835 with uint8.
        """
        if self.activation is not None:
            return _DTYPES[self.activation]
        if "uint16" in self.npu and not any(node.target in CONVOLUTIONS for node in products):
            return torch.uint16
        return next((dtype for name, dtype in _DTYPES.items() if name in self.npu), torch.uint8)


def _activation(prepared: nn.Module) -> Activation:
    """The type of the activations of a graph that was prepared."""
    found = {part.zero.dtype for part in prepared.modules() if isinstance(part, FakeActivation)}
    return next(name for name, dtype in _DTYPES.items() if dtype in found)


def _products(graph: fx.GraphModule, settings: StaticInt8) -> list[fx.Node]:
    """The convolutions and linear layers to quantize, in their order; weight[0] holds the products of one output."""
    weights = {node: constant(graph, node.args[1]) for node in graph.graph.nodes if node.target in _PRODUCTS}
    found = {node: weight for node, weight in weights.items() if weight is not None}
    names = {node: [module_of(node)] for node in found}
    patterns = (*settings.include, *settings.exclude)
    refuse_unfitting([name for (name,) in names.values()], patterns, "convolution or linear")
    return [
        node
        for node, weight in found.items()
        if (settings.npu or weight[0].numel() >= settings.min_products or _is_depthwise(node, weight))
        and fits(names[node], settings.include)
        and not fits(names[node], settings.exclude)
    ]


def _is_depthwise(product: fx.Node, weight: Tensor) -> bool:
    groups = product.args[6] if len(product.args) > 6 else 1
    return isinstance(groups, int) and groups > 1 and weight.shape[1] == 1


def _owners(graph: fx.Graph, products: Collection[fx.Node], *, whole: bool) -> dict[fx.Node, fx.Node]:
    """The values to quantize; each with the value whose range it has (itself, or the one it was moved from).

    `whole`: also what linear layers write, and what leaves the model.
    """
    owners: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in products:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            owners.setdefault(source, source)
            tail = _tail(node)
            if whole or (node.target in CONVOLUTIONS and not _leaves(tail)):
                owners[tail] = tail
        elif node.target in _FLOW and node not in owners and not _leaves(node):
            sources = [
                source for source in node.all_input_nodes if not isinstance(source.meta.get("val"), torch.SymInt)
            ]
            if sources and all(source in owners for source in sources):
                tail = _tail(node) if node.target in _ARITHMETIC else node
                owners[tail] = owners[sources[0]] if node.target in _MOVES else tail
    return owners


def _readers(
    products: Collection[fx.Node], owners: Mapping[fx.Node, fx.Node], *, whole: bool
) -> dict[fx.Node, list[fx.Node]]:
    """Who reads each of these values as integers; others, as a softmax, read it as it was."""
    read = {*products, *owners}
    written = {_tail(node) for node in products} if whole else set()
    heads = {node.all_input_nodes[0] for node in owners if node.target in _FUSED}
    return {
        node: [
            user
            for user in node.users
            if node in written or user in read or (user in heads and user.target in _ARITHMETIC)
        ]
        for node in owners
    }


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


def scale_and_zero(low: float, high: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`s = (max − min)/(qmax − qmin)`, `z = round(qmin − min/s)`; the range is widened to hold 0, which must be exact.

    Where nothing but 0 was seen the range is [0, 1]: fine enough for a bias, which counts in steps of s·s_w.
    """
    limits = torch.iinfo(dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else 1.0
    scale = max((high - low) / (limits.max - limits.min), 1e-12)
    zero = min(max(round(limits.min - low / scale), limits.min), limits.max)
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(zero, dtype=dtype)
