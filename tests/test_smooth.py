"""Smoothing scales against SmoothQuant's equation 4, from all of the data, and a model that is left as it was."""

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.data import Batch
from edgepress.compress.layers import find_layers
from edgepress.compress.smooth import smoothing_scales
from edgepress.runtime.errors import DataError

from .quantize_check import chain, largest_difference, model_of, random, seeded


class Attention(nn.Module):
    """Query, key and value read one tensor; the output layer is called twice; `spare` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out, self.spare = (nn.Linear(6, 6) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(-1, -2), -1)
        return self.out(torch.tanh(self.out(input=weights @ self.value(x))))


def batches(*tensors: Tensor) -> list[Batch]:
    return [{"x": tensor.numpy()} for tensor in tensors]


def scales_of(
    module: nn.Module, *tensors: Tensor, alpha: float = 0.5, only: Sequence[str] = ("*",)
) -> dict[str, Tensor]:
    layers: Any = find_layers(module, ["linear"], include=only)
    return smoothing_scales(model_of(module, x=tensors[0]), layers, batches(*tensors), alpha)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8, 1.0])
def test_scales_are_equation_4(alpha: float) -> None:
    """s_j = max|x_j|^α / max|W_j|^(1−α), the maximum over all rows of all batches."""
    linear, x = seeded(nn.Linear(6, 3)), [random(4, 6), 3 * random(5, 6, seed=1)]
    scale = scales_of(chain(linear), *x, alpha=alpha)["layer.0"]
    for j in range(6):
        peak = max(abs(float(row[j])) for batch in x for row in batch)
        weight = max(abs(w) for w in linear.weight[:, j].tolist())
        assert float(scale[j]) == pytest.approx(peak**alpha / weight ** (1 - alpha), rel=1e-5)


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_product_is_the_same_before_anything_is_rounded(seed: int, alpha: float) -> None:
    linear, x = seeded(nn.Linear(6, 3), seed), 100 * random(4, 6, seed=seed)
    scale = scales_of(chain(linear), x, alpha=alpha)["layer.0"]
    with torch.no_grad():
        smoothed = nn.functional.linear(x / scale, linear.weight * scale, linear.bias)
        assert largest_difference(smoothed, linear(x)) < 1e-5 * float(linear(x).abs().max())


def test_outliers_of_activations_become_smaller() -> None:
    x = random(64, 6)
    x[:, 2] *= 50
    linear = nn.Linear(6, 3)
    nn.init.ones_(linear.weight)
    scale = scales_of(chain(linear), x, alpha=0.5)["layer.0"]
    before, after = x.abs().amax(0), (x / scale).abs().amax(0)
    assert before.max() / before.min() > 50
    assert float(after.max() / after.min()) == pytest.approx(float(before.max() / before.min()) ** 0.5)


def test_layers_that_read_one_tensor_share_one_scale() -> None:
    module, x = seeded(Attention()), random(2, 4, 6)
    scales = scales_of(module, x)
    assert scales["query"] is scales["key"] is scales["value"]
    weight = torch.cat([getattr(module, name).weight for name in ("query", "key", "value")]).abs().amax(0)
    expected = (x.abs().amax((0, 1)) / weight).sqrt()
    assert largest_difference(scales["query"], expected) < 1e-6


def test_a_group_is_of_the_layers_that_were_asked_for() -> None:
    module, x = seeded(Attention()), random(2, 4, 6)
    scales = scales_of(module, x, only=["query", "out"])
    assert scales.keys() == {"query", "out"}
    expected = (x.abs().amax((0, 1)) / module.query.weight.abs().amax(0)).sqrt()
    assert largest_difference(scales["query"], expected) < 1e-6


def test_a_layer_that_is_called_twice_has_a_scale_of_its_own_for_both_calls() -> None:
    module, x = seeded(Attention()), random(2, 4, 6)
    seen: list[Tensor] = []
    hook = module.out.register_forward_pre_hook(
        lambda _, args, named: seen.append(*args, *named.values()), with_kwargs=True
    )
    scales = scales_of(module, x)
    hook.remove()
    seen = seen[-2:]
    peak = torch.cat([tensor.flatten(0, 1) for tensor in seen]).abs().amax(0)
    assert largest_difference(scales["out"], (peak / module.out.weight.abs().amax(0)).sqrt()) < 1e-6
    assert scales["out"] is not scales["query"]


def test_a_layer_that_never_ran_has_no_scale() -> None:
    assert "spare" not in scales_of(seeded(Attention()), random(2, 4, 6))


def test_a_channel_that_was_never_seen_is_left_alone() -> None:
    """Dividing by next to nothing would make whatever comes there later the largest value of all."""
    x = random(8, 6)
    x[:, 4] = 0
    scale = scales_of(chain(seeded(nn.Linear(6, 3))), x, alpha=0.8)["layer.0"]
    assert float(scale[4]) == 1.0


def test_weights_that_are_zero_give_finite_scales() -> None:
    linear = seeded(nn.Linear(6, 3))
    linear.weight.data[:, 1] = 0
    scale = scales_of(chain(linear), random(8, 6))["layer.0"]
    assert bool((torch.isfinite(scale) & (scale > 0)).all())


@given(st.lists(st.integers(1, 11), max_size=4, unique=True))
def test_scales_do_not_depend_on_how_the_data_is_cut(cuts: list[int]) -> None:
    module, x = chain(seeded(nn.Linear(6, 3))), random(12, 6)
    edges = [0, *sorted(cuts), 12]
    parts = [x[a:b] for a, b in itertools.pairwise(edges)]
    assert torch.equal(scales_of(module, *parts)["layer.0"], scales_of(module, x)["layer.0"])


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    module = seeded(Attention())
    alive: list[int] = []

    def stream() -> Iterator[Batch]:
        for seed in range(8):
            gc.collect()
            alive.append(sum(t.numel() for t in gc.get_objects() if type(t) is Tensor))
            yield {"x": random(2, 50, 6, seed=seed).numpy()}

    layers: Any = find_layers(module, ["linear"])
    smoothing_scales(model_of(module, x=random(2, 4, 6)), layers, stream(), 0.5)
    assert alive[-1] <= alive[1]


def test_the_model_is_left_as_it_was() -> None:
    """Neither dropout nor batch statistics take part, and no hook stays."""
    module = seeded(chain(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)))
    model, x = model_of(module, x=random(8, 6)), random(8, 6, seed=1)
    layers: Any = find_layers(module, ["linear"])
    expected = smoothing_scales(model, layers, batches(x), 0.5)
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    scales = smoothing_scales(model, layers, batches(x), 0.5)
    assert all(torch.equal(scales[name], expected[name]) for name in expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(part.training for part in module.modules())
    assert not any(part._forward_pre_hooks for part in module.modules())


class Explodes(nn.Module):
    """Divides by 0 on the way to its second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) / (x - x))


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (Attention, [], r"dynamic_int8 with smooth > 0 needs calibration data and got no batch"),
        (Attention, [{"y": np.zeros((2, 4, 6), np.float32)}], r"inputs \['y'\]; the model takes \['x'\]"),
        (Attention, [{"x": np.full((2, 4, 6), np.nan, np.float32)}], "'x' holds 48 values that are NaN"),
        (Attention, [{"x": np.zeros((2, 4, 5), np.float32)}], r"does not run on .* \{'x': \[2, 4, 5\]\}"),
        (Explodes, [{"x": np.ones((2, 6), np.float32)}], "second reads a NaN or an infinity during calibration"),
    ],
    ids=["none", "wrong name", "NaN", "wrong shape", "NaN on the way"],
)
def test_data_that_cannot_be_used_is_refused(make: Callable[[], nn.Module], data: list[Batch], message: str) -> None:
    module = make()
    layers: Any = find_layers(module, ["linear"])
    with pytest.raises(DataError, match=message):
        smoothing_scales(model_of(module, x=random(2, 4, 6)), layers, data, 0.5)
    assert not any(part._forward_pre_hooks for part in module.modules())
