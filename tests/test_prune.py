"""Magnitude pruning zeroes exactly the smallest weights."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.prune import MagnitudePrune, zero_but, zero_smallest
from edgepress.export.model import Model
from edgepress.runtime.errors import UsageError

from .quantize_check import chain, model_of, random, run, run_file, seeded


@pytest.fixture
def model() -> Model:
    net = chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    return model_of(seeded(net), x=random(2, 4, 6, 6))


def weights(model: Model) -> list[Tensor]:
    return [model.module.get_parameter(name).detach() for name in ("layer.0.weight", "layer.3.weight")]


def zeros(tensors: list[Tensor]) -> int:
    return sum(int((tensor == 0).sum()) for tensor in tensors)


few = st.floats(-2, 2, width=16).map(lambda x: round(x, 1))  # so that many are equal


@given(one=arrays(np.float32, (3, 4), elements=few), two=arrays(np.float32, (7,), elements=few), share=st.floats(0, 1))
def test_exactly_the_smallest_become_zero_and_of_equal_ones_the_first(one, two, share):
    flat = np.concatenate([one.ravel(), two])
    gone = sorted(range(19), key=lambda i: (abs(flat[i]), i))[: round(share * 19)]  # slow and obvious
    expected = flat.copy()
    expected[gone] = 0
    tensors = [torch.from_numpy(one.copy()), torch.from_numpy(two.copy())]
    zero_smallest(tensors, share)
    assert np.array_equal(np.concatenate([t.numpy().ravel() for t in tensors]), expected)


@given(weight=arrays(np.float32, (2, 8, 3), elements=few), n=st.integers(1, 3))
def test_n_of_m_stay_in_each_row_of_inputs(weight, n):
    expected = weight.copy()
    for o, start, k in itertools.product(range(2), (0, 4), range(3)):
        row = expected[o, start : start + 4, k]
        row[sorted(range(4), key=lambda i: (-abs(row[i]), i))[n:]] = 0
    found = torch.from_numpy(weight.copy())
    zero_but(found, n, 4)
    assert np.array_equal(found.numpy(), expected)


def test_a_sparsity_over_all_layers_or_in_each(model: Model):
    total = 8 * 4 * 9 + 10 * 8 * 16
    together = weights(MagnitudePrune(sparsity=0.8)(model, Data()))
    assert zeros(together) == round(0.8 * total)
    each = weights(MagnitudePrune(sparsity=0.8, scope="layer")(model, Data()))
    assert [zeros([weight]) for weight in each] == [round(0.8 * 288), 1024]
    assert zeros(weights(model)) == 0, "the model that was handed in has changed"


def test_a_threshold_zeroes_what_is_not_larger(model: Model):
    for before, after in zip(weights(model), weights(MagnitudePrune(threshold=0.1)(model, Data())), strict=True):
        assert torch.equal(after, torch.where(before.abs() > 0.1, before, 0))


def test_two_of_four_leave_half_and_layers_that_do_not_fit_stay_dense():
    model = model_of(seeded(chain(nn.Linear(6, 8), nn.Linear(8, 4))), x=random(2, 6))
    first, second = MagnitudePrune(n=2, m=4)(model, Data()).module.layer
    assert zeros([first.weight]) == 0
    assert (second.weight.reshape(4, 2, 4) != 0).sum(2).eq(2).all()


def test_patterns_choose_the_layers(model: Model):
    first, last = weights(MagnitudePrune(sparsity=0.5, exclude=("layer.0",))(model, Data()))
    assert [zeros([first]), zeros([last])] == [0, 640]
    with pytest.raises(UsageError, match="fits no linear or conv1d or conv2d layer"):
        MagnitudePrune(include=("head",))(model, Data())


def test_the_step_says_what_zeros_are_good_for(model: Model):
    step = MagnitudePrune(sparsity=0.25)(model, Data()).history[-1]
    assert step.name == "magnitude"
    assert step.note == "25.0 % of the weights of 2 layers are 0; they save bytes of a download, no time"


def test_the_exported_file_holds_the_zeros_and_computes_the_same(model: Model, tmp_path):
    result = MagnitudePrune(sparsity=0.9)(model, Data())
    x = random(3, 4, 6, 6)
    assert np.abs(run_file(result, tmp_path, x=x) - run(result, x=x)).max() < 1e-5


def test_a_model_without_such_weights_comes_back_as_it_is():
    plain = Model("relu", nn.ReLU(), {"x": torch.zeros(2, 3)}, ("y",), {"x": {0: "batch"}})
    assert MagnitudePrune()(plain, Data()) is plain


def test_pruning_again_to_the_same_sparsity_changes_nothing(model: Model):
    once = MagnitudePrune(sparsity=0.5)(model, Data())
    assert MagnitudePrune(sparsity=0.5)(once, Data()) is once


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": 1.0}, "sparsity = 1.0; expected a share between 0 and 1"),
        ({"sparsity": 0.0}, "sparsity = 0.0; expected a share"),
        ({"sparsity": float("nan")}, "expected a share"),
        ({"threshold": 0.0}, "threshold = 0.0; expected a number above 0"),
        ({"n": 4, "m": 4}, "n = 4, m = 4; expected both, with 0 < n < m"),
        ({"n": 2}, "n = 2, m = None; expected both"),
        ({"m": 4}, "n = None, m = 4; expected both"),
        ({"sparsity": 0.5, "threshold": 0.1}, "name one of them"),
        ({"scope": "all"}, "scope = 'all'; expected global or layer"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, words: str):
    with pytest.raises(UsageError, match=words):
        MagnitudePrune(**settings)
