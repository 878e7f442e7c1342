"""Layers that round as they run: they give what the integers give that they settle to, and let gradients through."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgepress.compress.fake import (
    FakeActivation,
    FakeBlockEmbedding,
    FakeBlockLinear,
    FakeChannels,
    FakeDynamicLinear,
    fake_dynamic,
)
from edgepress.compress.static import scale_and_zero
from edgepress.compress.weights import in_blocks, per_channel

from .quantize_check import largest_difference, random

seeds = st.integers(0, 10**6)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of Σ w·f(x), w = 1, 2, 3, ...: that of the identity is w."""
    x = x.clone().requires_grad_()
    y = function(x)
    (y * counted(x)).sum().backward()
    assert x.grad is not None
    return x.grad


def counted(x: Tensor) -> Tensor:
    return torch.arange(1.0, x.numel() + 1).view_as(x)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-3, 3))
def test_dynamic_activations_are_onnxs_formula(seed: int, spread: float, shift: float):
    """DynamicQuantizeLinear and back, element by element."""
    x = spread * (random(3, 5, seed=seed) + shift)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = torch.tensor(high - 0.0).sub(low) / 255
    zero = round(min(max(float(-torch.tensor(low) / step), 0), 255))
    found = fake_dynamic(x)
    for value, rounded in zip(x.flatten(), found.flatten(), strict=True):
        q = min(max(round(float(value / step)) + zero, 0), 255)
        assert float(rounded) == pytest.approx((q - zero) * float(step), rel=1e-5, abs=1e-6 * spread)
    assert torch.equal(gradient(fake_dynamic, x), counted(x))


def test_an_activation_that_is_0_stays_0():
    assert torch.equal(fake_dynamic(torch.zeros(2, 3)), torch.zeros(2, 3))


@given(seeds, st.floats(0, 3), st.floats(0.1, 3), st.sampled_from([torch.uint8, torch.int8]))
def test_static_activations_are_the_operator_and_learn_within_the_range(seed, low, high, dtype):
    scale, zero = scale_and_zero(-low, high, dtype)
    fake, x = FakeActivation(scale, zero), random(4, 9, seed=seed)
    assert torch.equal(fake(x), torch.ops.edgepress.quantize_dequantize(x, scale, zero))
    q = torch.round(x / scale) + zero.float()
    limits = torch.iinfo(dtype)
    within = (q >= limits.min) & (q <= limits.max)
    assert torch.equal(gradient(fake, x), counted(x) * within)


@given(seeds, st.sampled_from([7, 8]))
def test_channels_are_the_integers_of_per_channel(seed: int, bits: int):
    weight = random(5, 3, 2, seed=seed)
    weight[1], weight[2, 0] = 0, 0
    fake = FakeChannels(nn.Parameter(weight), bits)
    found = fake()
    assert torch.equal(found, per_channel(weight, bits=bits).dequantize())
    assert not found[1].any()
    assert not found[2, 0].any()
    (found * counted(weight)).sum().backward()
    assert torch.equal(fake.weight.grad, counted(weight))


def test_a_dynamic_linear_layer_gives_what_it_settles_to():
    layer = FakeDynamicLinear(random(6, 40), random(6), bits=8)
    x = random(7, 40, seed=3)
    assert largest_difference(layer(x), layer.settle()(x)) < 1e-5 * float(layer(x).detach().abs().max())
    assert torch.equal(layer.settle().values, per_channel(layer.channels.weight).values)


@given(seeds, st.sampled_from([4, 8]), st.booleans())
def test_blocks_are_the_integers_that_they_settle_to_also_after_a_step(seed: int, bits: int, symmetric: bool):
    weight, x = random(5, 40, seed=seed), random(3, 40, seed=seed + 1)
    layer = FakeBlockLinear(nn.Parameter(weight), random(5), bits=bits, block=16, symmetric=symmetric)
    assert torch.equal(layer.settle().values, in_blocks(weight, bits=bits, block=16, symmetric=symmetric).values)
    with torch.no_grad():
        layer.weight += 0.1 * random(5, 40, seed=seed + 2)
        layer.weight[0] = 0
    settled = layer.settle()
    assert not settled.weight.dequantize()[0].any()
    assert largest_difference(layer(x), settled(x)) < 1e-5
    layer(x).sum().backward()
    assert largest_difference(layer.weight.grad, x.sum(0).expand(5, 40)) < 1e-5
    layer.search()
    assert torch.equal(layer.settle().values, in_blocks(layer.weight, bits=bits, block=16, symmetric=symmetric).values)


@given(seeds, st.sampled_from([4, 8]), st.booleans(), st.booleans())
def test_an_embedding_rounds_the_rows_that_are_read(seed: int, bits: int, symmetric: bool, half: bool):
    weight = nn.Parameter(random(9, 20, seed=seed))
    layer = FakeBlockEmbedding(weight, 0, bits=bits, block=16, symmetric=symmetric, half_scales=half)
    ids = torch.tensor([[0, 3, 3], [8, 1, 0]])
    found = layer(ids)
    assert torch.equal(found, layer.settle()(ids))
    found.sum().backward()
    expected = torch.zeros(9, 1)
    expected[[1, 3, 8], 0] = torch.tensor([1.0, 2.0, 1.0])  # 0 is padding, which does not learn
    assert torch.equal(weight.grad, expected.expand(9, 20))


def test_a_layer_holds_the_very_parameter_that_it_was_given():
    weight = nn.Parameter(random(6, 16))
    tied = FakeDynamicLinear(weight, None, 8), FakeBlockLinear(weight, None, bits=4, block=16, symmetric=True)
    assert tied[0].channels.weight is tied[1].weight is weight


class Walks(TorchDispatchMode):
    """Counts the operators whose result has `size` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        result = func(*args, **(kwargs or {}))
        self.count += isinstance(result, Tensor) and result.numel() == self.size and not func.is_view
        return result


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (lambda: FakeChannels(nn.Parameter(random(30, 41)), 8)(), 30 * 41),
        (lambda: fake_dynamic(random(30, 41).requires_grad_()), 30 * 41),
        (lambda: FakeActivation(*scale_and_zero(-1, 1, torch.uint8))(random(30, 41)), 30 * 41),
    ],
    ids=["channels", "dynamic", "static"],
)
def test_rounding_walks_through_a_tensor_six_times_at_most(layer: Callable[[], Tensor], size: int):
    with Walks(size) as walks:
        layer()
    assert 0 < walks.count <= 6
