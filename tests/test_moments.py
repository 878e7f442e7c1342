"""Second moments of inputs: the sums of outer products, whichever way a layer reads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgepress.compress.data import Data
from edgepress.compress.moments import second_moments
from edgepress.runtime.errors import DataError

from .quantize_check import chain, data_of, model_of, random


def moments(layer: nn.Module, *batches: Tensor) -> np.ndarray:
    model = model_of(chain(layer), x=batches[0])
    data = data_of(*({"x": batch} for batch in batches))
    return second_moments(model, {"layer": layer}, data.calibration, "the test")["layer"].numpy()


@given(width=st.integers(1, 6), batches=st.integers(1, 4), seed=st.integers(0, 9))
def test_the_moments_of_a_linear_are_the_mean_of_outer_products(width: int, batches: int, seed: int):
    parts = [random(3, 2, width, seed=seed + i) for i in range(batches)]
    rows = torch.cat(parts).reshape(-1, width).double().numpy()
    expected = np.mean([np.outer(x, x) for x in rows], 0)
    np.testing.assert_allclose(moments(nn.Linear(width, 2), *parts), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_moments_of_a_convolution_are_those_of_its_patches(padding, dilation):
    layer = nn.Conv2d(3, 4, (3, 5), padding=padding, dilation=dilation)
    x = random(2, 3, 10, 11)
    pads = layer._reversed_padding_repeated_twice  # left, right, top, bottom: torch's own figures
    rows = F.unfold(F.pad(x, pads), (3, 5), dilation=dilation).movedim(1, 2).reshape(-1, 45).double().numpy()
    np.testing.assert_allclose(moments(layer, x), rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_a_stride_leaves_out_the_patches_that_the_convolution_leaves_out():
    x = random(2, 3, 9, 9)
    rows = F.unfold(x, 3, stride=2).movedim(1, 2).reshape(-1, 27).double().numpy()
    found = moments(nn.Conv2d(3, 4, 3, stride=2), x)
    np.testing.assert_allclose(found, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_the_moments_of_an_embedding_are_the_shares_of_its_ids():
    found = moments(nn.Embedding(5, 3), torch.tensor([[0, 1], [1, 1]]), torch.tensor([[4, 1], [0, 0]]))
    np.testing.assert_allclose(found, [3 / 8, 4 / 8, 0, 0, 1 / 8])


def test_a_layer_that_never_runs_has_moments_of_zero():
    model = model_of(chain(nn.Linear(2, 2)), x=random(2, 2))
    found = second_moments(model, {"idle": nn.Linear(3, 1)}, data_of({"x": random(2, 2)}).calibration, "the test")
    assert not found["idle"].any()


def test_a_layer_called_by_name_is_watched_too():
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    model, x = model_of(ByName(), x=random(2, 2)), random(4, 2)
    layers = {"layer": model.module.get_submodule("layer")}
    found = second_moments(model, layers, data_of({"x": x}).calibration, "the test")["layer"]
    assert torch.allclose(found, (x.double().T @ x.double()) / 4)


def test_missing_data_and_values_that_are_not_finite_are_told_in_one_line():
    model = model_of(chain(nn.ReLU(), nn.Linear(2, 2)), x=random(2, 2))
    layers = {"layer.1": model.module.get_submodule("layer.1")}
    with pytest.raises(DataError, match="the test needs calibration data"):
        second_moments(model, layers, Data().calibration, "the test")
    broken = model_of(chain(nn.Linear(2, 2)), x=random(2, 2))
    layer = broken.module.get_submodule("layer.0")
    overflow = data_of({"x": torch.full((2, 2), 3e38)})
    double = model_of(chain(Doubled(), layer), x=random(2, 2))
    with pytest.raises(DataError, match=r"layer\.1 reads a NaN or an infinity"):
        second_moments(double, {"layer.1": layer}, overflow.calibration, "the test")
    assert not layer._forward_pre_hooks, "a hook was left behind"


class Doubled(nn.Module):
    """`2x`, which overflows where x is near the largest float."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x
