"""A graph with rounding layers, and the same one with integers: they compute the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from edgepress.compress.capture import aten
from edgepress.compress.fake import FakeActivation, FakeBias, FakeChannels
from edgepress.compress.rounding import counts, settle
from edgepress.compress.static import StaticInt8

from .quantize_check import chain, data_of, largest_difference, model_of, random, seeded
from .static_check import QDQ, image


class Twice(nn.Module):
    """One convolution that is run twice, with an addition, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.conv(torch.relu(self.conv(x)))) + x).mean((2, 3)))


def prepared(module: nn.Module, x: Tensor, step: StaticInt8 | None = None) -> fx.GraphModule:
    model = model_of(module, x=x)
    graph = (step or StaticInt8(min_products=1)).prepare(model, data_of(model.example))
    assert graph is not None
    return graph


def layers(graph: fx.GraphModule, kind: type) -> list[nn.Module]:
    return [layer for layer in graph.modules() if isinstance(layer, kind)]


CASES: list[tuple[Callable[[], nn.Module], Tensor]] = [
    (Twice, image),
    (lambda: chain(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), image),
    (lambda: chain(nn.Conv1d(4, 8, 3), nn.ReLU6(), nn.Conv1d(8, 4, 3, bias=False)), random(4, 4, 17)),
    (lambda: chain(nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 3)), random(5, 12)),
]


@pytest.mark.parametrize(("make", "x"), CASES, ids=["twice", "depthwise", "1d", "linear"])
def test_integers_compute_what_the_rounding_layers_computed_also_after_a_step_of_training(make, x: Tensor):
    graph = prepared(seeded(make()), x)
    graph(x).square().sum().backward()
    with torch.no_grad():
        for parameter in graph.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any())
            parameter -= 0.01 * parameter.grad / parameter.grad.norm()
    expected = graph(x).detach()
    settled = settle(graph)
    assert largest_difference(settled(x), expected) <= 1e-6 * float(expected.abs().max())
    assert not [layer for kind in (FakeActivation, FakeBias, FakeChannels) for layer in layers(settled, kind)]


def test_a_layer_stands_for_a_weight_a_bias_and_the_values_of_one_range():
    graph = prepared(seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))), image)
    assert [len(layers(graph, kind)) for kind in (FakeChannels, FakeBias, FakeActivation)] == [2, 2, 2]
    assert counts(graph) == (2, 2)
    assert [node.target for node in settle(graph).graph.nodes].count(QDQ) == 3  # before and after pooling, one range


def test_products_that_share_a_weight_share_its_integers():
    graph = prepared(seeded(chain(shared := nn.Linear(6, 6), nn.GELU(), shared)), random(5, 6))
    assert counts(graph) == (2, 2)
    assert len(layers(graph, FakeChannels)) == 1
    first, second = (node for node in settle(graph).graph.nodes if node.target is aten.linear.default)
    assert first.args[1] is second.args[1]


def test_a_product_that_stays_float_learns_too():
    graph = prepared(chain(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), image, StaticInt8())
    assert counts(graph)[0] == 1
    assert {tuple(p.shape) for p in graph.parameters()} == {(8, 4, 1, 1), (8,), (8, 8, 3, 3)}
