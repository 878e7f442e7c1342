"""A captured graph computes what its module computes, with every batch normalization that can be folded folded away."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepress.compress.capture import CONVOLUTIONS, add_constant, aten, capture, constant, parameter, tidy
from edgepress.export.trace import module_of
from edgepress.runtime.errors import UnsupportedError

from .quantize_check import chain, largest_difference, model_of, random, run, seeded

NORMS = {aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default}


def targets(graph: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def folded(*layers: nn.Module, x: Tensor) -> torch.fx.GraphModule:
    """The captured chain of layers; it computes what they compute, at another batch size too."""
    model = model_of(seeded(chain(*layers)), x=x)
    graph = capture(model)
    for inputs in (x, x[:1], torch.cat([x, -x, x])):
        expected = run(model, x=inputs)
        assert largest_difference(graph(x=inputs), expected) < 1e-5 * max(1, abs(expected).max())
    return graph


image, signal = random(2, 4, 9, 9), random(2, 4, 17)


@pytest.mark.parametrize(
    ("layers", "x"),
    [
        ((nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), image),
        ((nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), image),
        ((nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), image),
        ((nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False, eps=0.1)), image),
        ((nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), nn.BatchNorm2d(8)), image),
        ((nn.Conv2d(4, 6, 3, padding="same", dilation=2), nn.BatchNorm2d(6)), image),
        ((nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6)), signal),
        ((nn.Conv1d(4, 8, 3, padding="same", groups=2, bias=False), nn.BatchNorm1d(8)), signal),
    ],
)
def test_batch_normalization_is_folded_into_the_convolution_before_it(layers: list[nn.Module], x: Tensor) -> None:
    graph = folded(*layers, nn.ReLU(), x=x)
    assert not NORMS & set(targets(graph))


def test_folding_is_the_equation() -> None:
    """W' = W·γ/√(σ² + ε),   b' = (b − μ)·γ/√(σ² + ε) + β"""
    conv, norm = seeded(nn.Conv2d(2, 3, 1)), seeded(nn.BatchNorm2d(3), seed=1)
    graph = capture(model_of(chain(conv, norm), x=random(2, 2, 4, 4)))
    node = next(node for node in graph.graph.nodes if node.target in CONVOLUTIONS)
    weight, bias = constant(graph, node.args[1]), constant(graph, node.args[2])
    for i in range(3):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight[i].item() / (norm.running_var[i].item() + norm.eps) ** 0.5
        assert largest_difference(weight[i], conv.weight[i] * factor) < 1e-6
        expected = (conv.bias[i].item() - norm.running_mean[i].item()) * factor + norm.bias[i].item()
        assert bias[i].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("layers", "x"),
    [
        ((nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)), image),
        ((nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), image),
        ((nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)), image),
        ((nn.Linear(9, 9), nn.BatchNorm2d(4)), image),
    ],
)
def test_other_batch_normalizations_stay(layers: list[nn.Module], x: Tensor) -> None:
    assert NORMS & set(targets(folded(*layers, x=x)))


def test_statistics_of_the_batch_itself_are_not_folded() -> None:
    layers = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    model = model_of(seeded(chain(*layers)), x=image)
    graph = capture(model)
    assert NORMS & set(targets(graph))
    assert largest_difference(graph(x=image), run(model, x=image)) < 1e-5


class TwoReaders(nn.Module):
    """The convolution's own output is needed too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.norm(y)


class OneConvolutionTwoNorms(nn.Module):
    """One weight, used twice, each time with statistics of its own: as in a detector's head over two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.conv(x)) + self.second(self.conv(x * 2)) + self.conv(-x)


class WritesInto(nn.Module):
    """Writes into parts of a tensor, and into one that is seen under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y[:, :2] *= 10
        y[:, 2:].relu_()
        seen = y.flatten(1)
        F.relu(y, inplace=True)
        return self.last(y) + seen.mean(1)[:, None, None, None]


class InPlace(nn.Module):
    """The usual kind: the result takes the place of the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        self.act(y)
        y += 1
        return y.flatten(1).mean(1)


@pytest.mark.parametrize("kind", [TwoReaders, OneConvolutionTwoNorms, WritesInto, InPlace])
def test_the_graph_computes_what_the_module_computes(kind: type[nn.Module]) -> None:
    model = model_of(seeded(kind()), x=image)
    expected = run(model, x=image)
    graph = capture(model)
    assert largest_difference(graph(x=image), expected) < 1e-5 * abs(expected).max()


def test_a_convolution_that_others_read_keeps_its_batch_normalization() -> None:
    assert NORMS & set(targets(capture(model_of(seeded(TwoReaders()), x=image))))


def test_one_convolution_is_folded_with_each_of_its_batch_normalizations() -> None:
    graph = capture(model_of(seeded(OneConvolutionTwoNorms()), x=image))
    assert not NORMS & set(targets(graph))
    weights = {node.args[1].target for node in graph.graph.nodes if node.target in CONVOLUTIONS}
    assert len(weights) == 3


def test_a_value_that_is_written_into_under_another_name_never_changes_in_the_graph() -> None:
    graph = capture(model_of(seeded(WritesInto()), x=image))
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable


def test_writing_in_place_costs_no_folding() -> None:
    assert not NORMS & set(targets(capture(model_of(seeded(InPlace()), x=image))))


def test_a_module_in_training_is_captured_for_evaluation_and_stays_in_training() -> None:
    module = seeded(chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)))
    model = model_of(module, x=image)
    expected = run(model, x=image)
    module.train()
    module.layer[1].eval()  # pyright: ignore - a frozen normalization in a network that trains
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert largest_difference(capture(model)(x=image), expected) < 1e-5
    assert [part.training for part in module.modules()] == [True, True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_captured_graph_shares_no_change_with_its_module() -> None:
    module = seeded(chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    names, expected = list(module.state_dict()), run(model_of(module, x=image), x=image)
    graph = capture(model_of(module, x=image))
    assert [name for name, _ in graph.named_buffers()] == ["folded_weight", "folded_bias"]
    assert not list(graph.parameters())
    graph.folded_weight.zero_()
    assert list(module.state_dict()) == names
    assert largest_difference(run(model_of(module, x=image), x=image), expected) == 0


def test_a_node_tells_the_module_that_it_was_traced_in() -> None:
    net = chain(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    graph = capture(model_of(net, x=random(2, 1, 4, 4))).graph
    found = {module_of(node) for node in graph.nodes if node.op == "call_function"}
    assert {"layer.0", "layer.3"} <= found
    assert module_of(next(iter(graph.nodes))) == ""


def test_constants_get_free_names_and_unused_ones_go() -> None:
    graph = capture(model_of(seeded(nn.Linear(4, 2)), input=random(2, 4)))
    linear = next(node for node in graph.graph.nodes if node.target is aten.linear.default)
    with graph.graph.inserting_before(linear):
        nodes = [add_constant(graph, torch.full((2, 4), float(i)), "weight") for i in range(3)]
    assert len({node.target for node in nodes}) == 3
    assert [float(constant(graph, node).mean()) for node in nodes] == [0, 1, 2]
    assert constant(graph, linear) is None
    assert constant(graph, None) is None
    linear.update_arg(1, nodes[2])
    tidy(graph)
    tensors = dict([*graph.named_parameters(), *graph.named_buffers()])
    assert len(tensors) == 2
    assert largest_difference(graph(input=torch.ones(1, 4)), 8 + tensors["bias"].detach()[None]) < 1e-6


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_a_module_that_cannot_be_traced_is_refused_in_one_line() -> None:
    with pytest.raises(UnsupportedError, match=r"net cannot be traced by torch\.export") as caught:
        capture(model_of(Undecided(), x=image))
    assert "\n" not in str(caught.value)


def test_a_constant_becomes_a_parameter_when_it_is_asked_for_as_one() -> None:
    graph = capture(model_of(chain(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)), x=random(2, 4, 5, 5)))
    (conv,) = (node for node in graph.graph.nodes if node.target is aten.conv2d.default)
    assert not list(graph.parameters()), "folding leaves buffers"
    weight, expected = parameter(graph, conv.args[1]), constant(graph, conv.args[1])
    assert weight is parameter(graph, conv.args[1])
    assert torch.equal(weight, expected)
    assert list(graph.parameters()) == [weight]
    assert parameter(graph, conv.args[0]) is None
