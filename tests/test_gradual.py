"""Gradual pruning: zeros grow in number as the schedule says, while the network learns from what it was."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.data import Data, batches
from edgepress.compress.distill import Distill
from edgepress.compress.gradual import GradualPrune, cubic
from edgepress.compress.prune import MagnitudePrune
from edgepress.compress.train import Training
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UsageError

from .quantize_check import chain, model_of, random, run, seeded


@pytest.fixture
def model() -> Model:
    net = chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    return model_of(seeded(net), x=random(2, 4, 6, 6))


@pytest.fixture
def data() -> Data:
    drawn = np.random.default_rng(0).normal(size=(512, 4, 6, 6)).astype(np.float32)
    return Data(training=batches({"x": drawn}))


def weights(model: Model) -> list[Tensor]:
    return [model.module.get_parameter(name).detach() for name in ("layer.0.weight", "layer.3.weight")]


def zeros(tensors: list[Tensor]) -> int:
    return sum(int((tensor == 0).sum()) for tensor in tensors)


def lesson(**settings: float) -> Distill:
    return Distill(kind="cosine", training=Training(**{"epochs": 8, "rate": 3e-3, **settings}))  # pyright: ignore


@given(final=st.floats(0, 1), initial=st.floats(0, 1), steps=st.integers(1, 500))
def test_the_cubic_schedule_starts_and_ends_where_it_shall(final, initial, steps):
    assert cubic(0, steps, final, initial) == pytest.approx(initial)
    assert cubic(steps, steps, final, initial) == final
    path = [cubic(step, steps, final, initial) for step in range(steps + 1)]
    gains = [(b - a) * (1 if final >= initial else -1) for a, b in itertools.pairwise(path)]
    assert all(gain >= -1e-9 for gain in gains)
    assert all(later <= gain + 1e-9 for gain, later in itertools.pairwise(gains))


def test_half_way_seven_eighths_of_the_zeros_are_there():
    assert cubic(50, 100, 0.8) == pytest.approx(0.7)
    assert cubic(50, 100, 0.8, 0.4) == pytest.approx(0.75)


def test_gradual_pruning_follows_the_schedule_and_is_done_before_the_end(model: Model):
    module = model.module
    hook = GradualPrune(MagnitudePrune(sparsity=0.8), until=0.5).after_step(module)
    total = sum(weight.numel() for weight in weights(model))
    for step in range(1, 21):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.001  # what an optimizer does to zeros
        hook(module, step, 20)
        assert zeros(weights(model)) == round(cubic(min(step, 10), 10, 0.8) * total)
    assert zeros(weights(model)) == round(0.8 * total)


def test_pruned_while_training_the_network_is_nearer_to_itself_than_pruned_at_once(model: Model, data: Data):
    prune, x = MagnitudePrune(sparsity=0.8), random(64, 4, 6, 6)
    wanted, at_once = run(model, x=x), run(prune(model, Data()), x=x)
    gradual = GradualPrune(prune, distill=lesson())(model, data)
    total = sum(weight.numel() for weight in weights(model))
    assert zeros(weights(gradual)) == round(0.8 * total)
    assert gradual.history[-1].note == "80.0 % of the weights of 2 layers are 0; they save bytes of a download, no time"
    errors = [float(((found - wanted) ** 2).mean()) for found in (run(gradual, x=x), at_once)]
    assert errors[0] < 0.75 * errors[1], errors
    assert zeros(weights(model)) == 0, "the model that came is not changed"


def test_what_was_zero_before_stays_zero(model: Model, data: Data):
    few = MagnitudePrune(sparsity=0.3)(model, Data())
    more = GradualPrune(MagnitudePrune(sparsity=0.6), distill=lesson(steps=20))(few, data)
    for before, after in zip(weights(few), weights(more), strict=True):
        assert bool((after[before == 0] == 0).all())


def test_patterns_are_over_the_names_of_the_model(model: Model, data: Data):
    only = GradualPrune(MagnitudePrune(sparsity=0.5, include=("layer.3",)), distill=lesson(steps=4))(model, data)
    first, second = weights(only)
    assert (zeros([first]), zeros([second])) == (0, second.numel() // 2)


def test_a_model_without_layers_to_prune_is_left_and_missing_data_is_one_line(model: Model, data: Data):
    plain = model_of(chain(nn.ReLU()), x=random(2, 4))
    assert GradualPrune()(plain, data) is plain
    with pytest.raises(DataError, match="gradual needs training data"):
        GradualPrune()(model, Data())


def test_schedules_that_cannot_be_right_are_refused():
    for wrong in (
        lambda: GradualPrune(MagnitudePrune(threshold=0.1)),
        lambda: GradualPrune(MagnitudePrune(n=2, m=4)),
        lambda: GradualPrune(MagnitudePrune(sparsity=0.5), initial=0.6),
        lambda: GradualPrune(until=0.0),
        lambda: GradualPrune(distill=Distill(student="own")),
    ):
        with pytest.raises(UsageError, match=r"expected|name no threshold|put distill before"):
            wrong()
