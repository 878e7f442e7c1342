"""What is left of a layer is fitted to what the whole layer gave: least squares, as NumPy solves it."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.compress.refit import moments, order, refit, solve
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError

from .quantize_check import chain, data_of, model_of, random, seeded

BATCHES = data_of({"x": random(70, 5, seed=1)}, {"x": random(30, 5, seed=2)}).calibration
X = torch.cat([random(70, 5, seed=1), random(30, 5, seed=2)])


def whole(bias: bool = True) -> Model:
    return model_of(seeded(chain(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3, bias=bias))), x=random(4, 5))


def without_neurons(model: Model, kept: list[int]) -> nn.Module:
    module = copy.deepcopy(model.module)
    first, last = module.layer[0], module.layer[2]
    first.weight, first.bias = nn.Parameter(first.weight[kept]), nn.Parameter(first.bias[kept])
    last.weight = nn.Parameter(last.weight[:, kept])
    return module


@given(seed=st.integers(0, 1000), inputs=st.integers(1, 12), outputs=st.integers(1, 5))
def test_the_solution_is_that_of_numpys_least_squares(seed: int, inputs: int, outputs: int):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((60, inputs)), rng.standard_normal((60, outputs))
    found = solve(torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y), 1e-10)
    expected = np.linalg.lstsq(x, y, rcond=None)[0].T
    assert np.allclose(found.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
def test_the_sums_over_batches_are_those_of_the_stacked_activations(bias: bool):
    model, kept = whole(bias), [0, 2, 3, 7]
    after = without_neurons(model, kept)
    gram, cross, count = moments(model, after, "layer.2", torch.arange(3), BATCHES)
    x = nn.functional.gelu(after.layer[0](X)).detach().double()
    y = model.module(X).detach().double()
    x = torch.cat([x, torch.ones(100, 1)], 1) if bias else x
    missing = y - after(X).detach().double()
    assert count == 100
    assert torch.allclose(gram, x.T @ x, atol=1e-4)
    assert torch.allclose(cross, x.T @ missing, atol=1e-4)
    expected = np.linalg.lstsq(x.numpy(), missing.numpy(), rcond=None)[0].T
    assert np.allclose(solve(gram, cross, 1e-9).numpy(), expected, atol=1e-4)


def test_a_layer_that_keeps_all_of_its_inputs_stays_as_it_was():
    model = whole()
    after = without_neurons(model, list(range(8)))
    assert refit(model, after, {"layer.2": torch.arange(3)}, BATCHES) == 1
    assert torch.allclose(after.layer[2].weight, model.module.layer[2].weight, atol=1e-5)
    assert torch.allclose(after(X), model.module(X), atol=1e-5)


def test_an_input_that_repeats_another_is_not_missed():
    """With a copy of a neuron cut, least squares moves its weight to the one that is left."""
    model = whole()
    first = model.module.layer[0]
    first.weight.data[1], first.bias.data[1] = first.weight[0].detach(), first.bias[0].detach()
    after = without_neurons(model, [0, 2, 3, 4, 5, 6, 7])
    before = float((after(X) - model.module(X)).detach().abs().max())
    refit(model, after, {"layer.2": torch.arange(3)}, BATCHES * 50)
    assert (after(X) - model.module(X)).abs().max() < 0.2 * before


def test_refitting_brings_the_outputs_nearer():
    model = whole()
    after = without_neurons(model, [1, 4, 6])
    before = float((after(X) - model.module(X)).detach().square().mean())
    refit(model, after, {"layer.2": torch.arange(3)}, BATCHES)
    assert (after(X) - model.module(X)).square().mean() < 0.8 * before


def test_a_convolution_is_fitted_on_its_windows_and_to_the_outputs_it_still_has():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    model = model_of(seeded(chain(nn.Conv2d(1, 4, 1), nn.ReLU(), conv)), x=random(2, 1, 7, 7))
    after = copy.deepcopy(model.module)
    first, last, kept, rows = after.layer[0], after.layer[2], [0, 2, 3], torch.tensor([1, 5])
    first.weight, first.bias = nn.Parameter(first.weight[kept]), nn.Parameter(first.bias[kept])
    last.weight, last.bias = nn.Parameter(last.weight[rows][:, kept]), nn.Parameter(last.bias[rows])
    images = random(5, 1, 7, 7, seed=3)
    gram, cross, count = moments(model, after, "layer.2", rows, [{"x": images.numpy()}])
    assert count == 5 * 4 * 4
    with torch.no_grad():
        values = nn.functional.unfold(torch.relu(first(images)), 3, padding=1, stride=2).movedim(1, 2).reshape(80, 27)
        missing = (model.module(images)[:, rows] - after(images)).movedim(1, 3).reshape(80, 2)
    x = torch.cat([values, torch.ones(80, 1)], 1)
    expected = np.linalg.lstsq(x.numpy(), missing.numpy(), rcond=None)[0].T
    found = solve(gram, cross, 1e-9)
    assert np.allclose(x.numpy() @ found.numpy().T, x.numpy() @ expected.T, atol=1e-3)
    before = float((model.module(images)[:, rows] - after(images)).detach().square().mean())
    refit(model, after, {"layer.2": rows}, [{"x": images.numpy()}] * 9)
    assert (model.module(images)[:, rows] - after(images)).square().mean() < before


def test_layers_are_taken_as_they_run_and_the_ones_that_never_run_are_left_out():
    model = whole()
    model.module.spare = nn.Linear(5, 5)
    assert order(model, ["layer.2", "spare", "layer.0"]) == ["layer.0", "layer.2"]


def test_layers_that_cannot_be_fitted_stay_as_they_are():
    model = model_of(seeded(chain(nn.Conv2d(4, 4, 3, groups=4))), x=random(2, 4, 5, 5))
    after = copy.deepcopy(model.module)
    assert refit(model, after, {"layer.0": torch.arange(4)}, [{"x": random(2, 4, 5, 5).numpy()}]) == 0
    assert torch.equal(after.layer[0].weight, model.module.layer[0].weight)


def test_data_that_is_missing_is_told_in_one_line():
    model = whole()
    with pytest.raises(DataError, match="structured with refit needs calibration data"):
        refit(model, without_neurons(model, [0]), {"layer.2": torch.arange(3)}, ())
