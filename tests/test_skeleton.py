"""A leaf is a layer that depends on its input alone; the graph around the leaves is traced once, and never wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from edgepress.compress.data import Data
from edgepress.compress.layers import with_layers
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export import skeleton
from edgepress.export.model import Model
from edgepress.export.onnx import write
from edgepress.export.quantized import BlockEmbedding, BlockLinear, Divided, DynamicLinear
from edgepress.export.skeleton import hollow_trace, leaves, outside, width
from edgepress.runtime import load
from edgepress.runtime.artifact import Step

EIGHT = WeightOnly(bits=8, block=16, layers=("linear",))


class Net(nn.Module):
    """A table, a layer that is called twice, a norm in between, and whatever `last` does."""

    def __init__(self, last: Callable[["Net", Tensor], Tensor] = lambda net, x: net.head(x)) -> None:
        super().__init__()
        self.table, self.twice, self.norm = nn.Embedding(20, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.head, self.last = nn.Linear(16, 4, bias=False), last

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self, self.norm(self.twice(self.twice(self.table(ids)))))


def model(module: nn.Module) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    example = {"ids": torch.arange(6).reshape(2, 3)}
    return Model("net", module.eval(), example, ("y",), {"ids": {0: "batch", 1: "sequence"}})


def names(module: nn.Module) -> set[str]:
    return set(hollow_trace(model(module))[1])


def assert_file_is_model(made: Model, folder: Path, atol: float = 1e-5) -> None:
    """The file that is written gives what the module gives, at another length too."""
    folder.mkdir()
    session = load(write(made, folder))
    for shape in ((2, 3), (1, 5)):
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, 20, shape))
        expected = made(ids=ids)["y"].numpy()
        actual = session(ids=ids.numpy())["y"]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol * max(1.0, float(np.abs(expected).max())))


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """The models that were traced, one entry a trace."""
    made: list[Model] = []

    def watched(traced: Model, *within: object) -> object:
        made.append(traced)
        return original(traced, *within)  # pyright: ignore[reportArgumentType]

    original = skeleton.trace
    monkeypatch.setattr(skeleton, "trace", watched)
    return made


def test_plain_and_quantized_layers_are_leaves():
    weight = torch.randn(4, 16)
    blocks = in_blocks(weight, bits=4, block=16, symmetric=True)
    layers = {
        "linear": nn.Linear(16, 4), "embedding": nn.Embedding(9, 4), "dynamic": DynamicLinear(per_channel(weight)),
        "block": BlockLinear(blocks), "table": BlockEmbedding(blocks),
        "divided": Divided(torch.ones(16), DynamicLinear(per_channel(weight))),
    }  # fmt: skip
    found = leaves(nn.ModuleDict({**layers, "norm": nn.LayerNorm(4)}))
    assert found == layers
    assert {name: width(layer) for name, layer in found.items()} == {**dict.fromkeys(layers, 4), "table": 16}


def odd(kind: str) -> nn.Module:
    """A module whose layer `0` is no function of its input alone, or not computed by its class."""
    layer = nn.Linear(4, 4)
    match kind:
        case "tied":
            other = nn.Embedding(4, 4)
            other.weight = layer.weight
            return nn.Sequential(layer, other)
        case "its own forward":
            layer.forward = lambda input: input  # noqa: A006 - torch's own name
        case "parametrized":
            parametrizations.weight_norm(layer)
        case "pruned":
            prune.l1_unstructured(layer, "weight", 0.5)
        case "double":
            layer.double()
        case "max_norm":
            return nn.Sequential(nn.Embedding(4, 4, max_norm=1.0))
        case "a subclass":
            return nn.Sequential(nn.MultiheadAttention(4, 1).out_proj)
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    "kind", ["tied", "its own forward", "parametrized", "pruned", "double", "max_norm", "a subclass"]
)
def test_what_is_more_than_a_function_of_its_input_is_no_leaf(kind: str):
    assert leaves(odd(kind)) == {}


def test_a_module_that_is_itself_a_layer_has_no_leaf():
    assert leaves(nn.Linear(3, 3)) == {}


def test_a_layer_of_several_names_is_one_leaf():
    layer = nn.Linear(4, 4)
    assert list(leaves(nn.Sequential(layer, nn.ReLU(), layer))) == ["0"]


def test_outside_is_all_that_no_leaf_holds():
    net = Net()
    assert outside(net, ["table", "twice"]).keys() == {"norm.weight", "norm.bias", "head.weight"}


def test_all_layers_are_leaves_where_the_graph_reads_no_weight_past_them():
    assert names(Net()) == {"table", "twice", "head"}


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (lambda net, x: x @ net.table.weight.T, {"twice"}),  # the table's weight, past the table
        (lambda net, x: net.head(x) * net.twice.bias.sum(), {"table", "head"}),
        (lambda net, x: nn.functional.linear(x, net.head.weight), {"table", "twice"}),
    ],
)
def test_a_layer_whose_weight_is_read_past_its_forward_is_no_leaf(last, expected: set[str], tmp_path: Path):
    net = Net(last)
    assert hollow_trace(model(net))[1].keys() >= expected
    assert not names(net) & ({"table", "twice", "head"} - expected - {"head"})
    assert_file_is_model(model(net), tmp_path / "file")


def test_a_region_with_rules_of_its_own_is_traced_as_it_is():
    def half(net: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net.head(x)

    assert names(Net(half)) == set()


def test_a_layer_that_is_mapped_over_is_traced_as_it_is(tmp_path: Path):
    net = Net(lambda net, x: torch.vmap(net.head)(x))
    assert names(net) == set()
    assert_file_is_model(model(net), tmp_path / "file")


def test_hooks_around_a_leaf_are_traced(tmp_path: Path):
    net = Net()
    net.twice.register_forward_hook(lambda layer, args, y: y + args[0])
    assert "twice" in names(net)
    assert_file_is_model(model(net), tmp_path / "file")


def test_the_module_is_as_it_was(traces: list[Model]):
    net = Net()
    x = torch.arange(6).reshape(2, 3)
    before = net(x)
    hollow_trace(model(net))
    assert not any("forward" in part.__dict__ for part in net.modules())
    assert before.shape == net(x).shape
    assert len(traces) == 1


def test_one_trace_serves_a_model_and_what_swaps_made_of_it(traces: list[Model], tmp_path: Path):
    first = model(Net())
    second = EIGHT(first, Data())
    third = WeightOnly(bits=4, block=16, layers=("embedding",))(second, Data())
    assert_file_is_model(first, tmp_path / "first")
    assert_file_is_model(second, tmp_path / "second", 2e-2)  # MatMulNBits rounds its input to 8 bits, thrice in a row
    assert_file_is_model(third, tmp_path / "third", 2e-2)
    assert len(traces) == 1


def test_the_order_in_which_models_are_written_does_not_matter(traces: list[Model], tmp_path: Path):
    first = model(Net())
    second = DynamicInt8(smooth=0, reduce_range=True)(first, Data())
    (tmp_path / "a").mkdir()
    write(second, tmp_path / "a")
    assert_file_is_model(first, tmp_path / "b")
    assert len(traces) == 1


class Negative(nn.Linear):
    """A layer that no exporter knows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return -super().forward(input)


def changed(before: Model, how: str) -> Model:
    """The model after a step that changed more than leaves, or whose word about it is wrong."""
    step = Step("changed")
    net = with_layers(before.module, {})
    assert isinstance(net, Net)
    match how:
        case "says nothing":
            return before.then(net, step)
        case "norm":
            nn.init.constant_(net.norm.weight, 3.0)
        case "another kind of layer":
            return before.then(with_layers(net, {"head": Negative(16, 4)}), step, swapped=["head"])
        case "no leaf":
            return before.then(with_layers(net, {"norm": nn.LayerNorm(16)}), step, swapped=["norm"])
    return before.then(net, step, swapped=[])


@pytest.mark.parametrize("how", ["says nothing", "norm", "another kind of layer", "no leaf"])
def test_whatever_else_changes_is_traced_anew(traces: list[Model], tmp_path: Path, how: str):
    before = model(Net())
    assert_file_is_model(before, tmp_path / "before")
    after = changed(before, how)
    assert_file_is_model(after, tmp_path / "after")
    assert [traced.module for traced in traces] == [before.module, after.module]


def test_a_weight_that_was_written_into_is_traced_anew(traces: list[Model], tmp_path: Path):
    one = model(Net())
    assert_file_is_model(one, tmp_path / "before")
    with torch.no_grad():
        one.module.get_parameter("norm.weight").mul_(2)
        one.module.get_parameter("twice.weight").mul_(2)
    assert_file_is_model(one, tmp_path / "after")
    assert len(traces) == 2


def test_a_leafs_own_weight_needs_no_second_trace(traces: list[Model], tmp_path: Path):
    one = model(Net())
    assert_file_is_model(one, tmp_path / "before")
    with torch.no_grad():
        one.module.get_parameter("twice.weight").mul_(2)
    assert_file_is_model(one, tmp_path / "after")
    assert len(traces) == 1
