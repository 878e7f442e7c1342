"""The importance of a unit is the number that its equation gives, written out slowly."""

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.groups import Group
from edgepress.compress.importance import by_unit, importance, influence, samples, squares
from edgepress.compress.transformer import neurons
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError

from .quantize_check import chain, data_of, model_of, random, seeded


def perceptron() -> tuple[Model, list[Group]]:
    model = model_of(seeded(chain(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))), x=random(4, 5))
    return model, neurons(model.module)


BATCHES = data_of({"x": random(7, 5, seed=1)}, {"x": random(3, 5, seed=2)}).calibration
X = torch.cat([random(7, 5, seed=1), random(3, 5, seed=2)])


def test_magnitude_is_the_norm_of_all_weights_of_a_unit_and_needs_no_data():
    model, groups = perceptron()
    (found,) = importance(model, groups, (), "magnitude")
    first, last = (model.module.layer[i].weight.detach() for i in (0, 2))
    for j in range(6):
        assert found[j] == pytest.approx(float((first[j] ** 2).sum() + (last[:, j] ** 2).sum()) ** 0.5)


def test_activation_is_the_energy_that_a_unit_sends_on():
    model, groups = perceptron()
    (found,) = importance(model, groups, BATCHES, "activation")
    h = torch.tanh(model.module.layer[0](X)).detach()
    for j in range(6):
        sent = torch.outer(h[:, j], model.module.layer[2].weight[:, j].detach())
        assert found[j] == pytest.approx(float((sent**2).sum() / len(X)), rel=1e-5)


def test_taylor_expects_the_change_of_the_outputs_without_a_unit():
    """Behind the units all is linear here, so the first order is exact; the signs average out over many samples."""
    model, groups = perceptron()
    x = random(20_000, 5, seed=3)
    (found,) = importance(model, groups, [{"x": x.numpy()}], "taylor")
    h = torch.tanh(model.module.layer[0](x)).detach()
    for j in range(6):
        change = torch.outer(h[:, j], model.module.layer[2].weight[:, j].detach())
        assert found[j] == pytest.approx(float((change**2).sum(1).mean()), rel=0.05)


def test_taylor_is_the_same_each_time_and_leaves_no_gradients():
    model, groups = perceptron()
    one, two = (importance(model, groups, BATCHES, "taylor")[0] for _ in range(2))
    assert torch.equal(one, two)
    assert all(parameter.grad is None for parameter in model.module.parameters())
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(importance(model, groups, BATCHES, "taylor")[0], one), "frozen weights count as well"


class Twice(nn.Module):
    """Two layers read the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.body(x))
        return self.a(h) + self.b(h)


def test_taylor_adds_up_over_the_readers_of_a_unit_before_it_squares():
    model = model_of(seeded(Twice()), x=random(4, 5))
    units = torch.arange(4)
    group = Group("body", "neurons", 4, (0, 1, 2, 3), {"body": units}, {"a": units, "b": units})
    x = random(20_000, 5, seed=3)
    (found,) = importance(model, [group], [{"x": x.numpy()}], "taylor")
    h = torch.relu(model.module.body(x)).detach()
    weight = (model.module.a.weight + model.module.b.weight).detach()
    for j in range(4):
        assert found[j] == pytest.approx(float((h[:, j] ** 2).mean() * (weight[:, j] ** 2).sum()), rel=0.05)


def test_a_unit_of_several_columns_is_the_sum_of_them():
    model = model_of(seeded(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))), input=random(4, 5))
    single = Group("0", "neurons", 6, tuple(range(6)), {"0": torch.arange(6)}, {"1": torch.arange(6)})
    double = Group("0", "heads", 3, (0, 1, 2), {"0": torch.arange(6) // 2}, {"1": torch.arange(6) // 2})
    data = [{"input": X.numpy()}]
    fine, coarse = importance(model, [single, double], data, "activation")
    assert torch.allclose(coarse, fine.reshape(3, 2).sum(1))


def test_channels_of_no_unit_are_left_out():
    assert by_unit(torch.tensor([1.0, 2, 4, 8]), torch.tensor([0, -1, 1, 1]), 3).tolist() == [1, 12, 0]


def test_rows_are_positions_and_padding_is_none():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert samples(x, nn.Linear(2, 2), None).shape == (6, 2)
    assert samples(x, nn.Linear(2, 2), torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist() == [[0, 1], [2, 3], [6, 7]]
    image = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert samples(image, nn.Conv2d(3, 4, 1), None).shape == (8, 3)
    assert samples(image, nn.Conv2d(3, 4, 1), None)[1].tolist() == [1, 5, 9]


def test_the_squares_of_a_convolution_are_summed_over_its_kernel():
    conv, back = (kind(3, 4, 5).requires_grad_(False) for kind in (nn.Conv2d, nn.ConvTranspose2d))
    assert squares(conv).shape == (4, 3)
    assert squares(conv)[2, 1] == pytest.approx(float((conv.weight[2, 1] ** 2).sum()))
    assert squares(back)[2, 1] == pytest.approx(float((back.weight[1, 2] ** 2).sum()))


def test_a_layer_that_changes_nothing_has_no_influence():
    model = model_of(chain(nn.Identity(), nn.Linear(5, 5)), x=random(4, 5))
    found = influence(model, ["layer.0", "layer.1"], BATCHES)
    assert found[0] == pytest.approx(0, abs=1e-6)
    expected = 1 - nn.functional.cosine_similarity(X, model.module.layer[1](X).detach(), dim=1)
    assert found[1] == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("how", ["activation", "taylor"])
def test_data_that_is_missing_or_turns_into_nan_is_told_in_one_line(how):
    model, groups = perceptron()
    with pytest.raises(DataError, match=f"structured with importance = {how} needs calibration data"):
        importance(model, groups, (), how)
    model.module.layer[0].weight.data[0] = np.nan
    with pytest.raises(DataError, match=r"layer\.0 meets a NaN"):
        importance(model, groups, BATCHES, how)
