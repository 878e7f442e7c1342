"""Channels are found with all that depends on them, and a cut network gives what one with dead channels gives."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.channels import channels, with_channels
from edgepress.export.model import Model
from edgepress.runtime.errors import UnsupportedError

from .quantize_check import chain, model_of, random, seeded


class Net(nn.Module):
    """A residual connection, a depthwise convolution, a concatenation, and a flattened map before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)
        self.last = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.branch(x))
        x = torch.relu(self.depthwise(x))
        x = torch.relu(self.last(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture
def model() -> Model:
    return model_of(seeded(Net()), x=random(2, 1, 6, 6))


def test_what_depends_on_a_channel_goes_with_it(model: Model):
    first, *rest = channels(model)
    assert [first.size, *(group.name for group in rest)] == [8, "left", "right", "last"]
    assert set(first.rows) == {"stem", "branch", "depthwise"}
    assert set(first.columns) == {"branch", "left", "right"}
    assert not any(group.why for group in (first, *rest))


def test_columns_belong_to_the_channel_they_come_from(model: Model):
    _, left, right, last = channels(model)
    assert left.columns["last"].tolist() == [0, 1, 2, 3, *[-1] * 6]
    assert right.columns["last"].tolist() == [*[-1] * 4, 0, 1, 2, 3, 4, 5]
    assert last.columns["head"].tolist() == [channel for channel in range(5) for _ in range(4)]


def test_a_cut_network_gives_what_one_gives_whose_readers_have_zeros(model: Model):
    groups = [replace(group, kept=tuple(range(1, group.size))) for group in channels(model)]
    reference = copy.deepcopy(model.module)
    for group in groups:
        for name, owners in group.columns.items():
            reference.get_submodule(name).weight.data[:, owners == 0] = 0
    cut = with_channels(model, groups)
    expected, found = (replace(model, module=m)(**model.example)["y"] for m in (reference, cut))
    assert torch.allclose(found, expected, atol=1e-5)
    assert [cut.stem.out_channels, cut.norm.num_features, cut.depthwise.groups] == [7, 7, 7]
    assert [cut.left.out_channels, cut.right.out_channels, cut.last.in_channels, cut.head.in_features] == [3, 5, 8, 16]
    assert model.module.stem.out_channels == 8, "the module at hand has changed"


def test_frozen_weights_and_modes_stay_as_they_were(model: Model):
    model.module.norm.weight.requires_grad_(False)
    model.module.train()
    cut = with_channels(model, [replace(channels(model)[0], kept=(0, 1, 2))])
    assert cut.training
    assert cut.norm.training
    assert not cut.norm.weight.requires_grad
    assert cut.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in cut.parameters())


def test_channels_that_are_the_models_output_stay_whole():
    net = chain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    inner, outer = channels(model_of(net, x=random(2, 1, 9, 9)))
    assert [inner.name, inner.why] == ["layer.0", ""]
    assert [outer.name, outer.why] == ["layer.2", "they are the model's output y"]


class Averaged(nn.Module):
    """What reads the channels here is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((1, 2, 3))


def test_channels_that_something_unknown_uses_stay_whole():
    (group,) = channels(model_of(seeded(Averaged()), x=random(2, 1, 6, 6)))
    assert group.why == "what uses them is not all known"


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).reshape(-1, 8 * 16))


def test_channels_whose_number_stands_in_the_code_stay_whole():
    (group,) = channels(model_of(Counting(), x=random(2, 1, 6, 6)))
    assert group.why == "what uses them is not all known"


def test_channels_in_groups_stay_whole():
    net = chain(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 2))
    found = channels(model_of(net, x=random(2, 1, 6, 6)))
    assert {group.why for group in found} == {"layer.1 is a grouped convolution"}


def test_a_model_without_convolutions_has_no_channels():
    assert channels(model_of(chain(nn.Linear(3, 2)), x=random(2, 3))) == []


def test_a_model_that_cannot_be_followed_is_refused_by_name():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.conv(x).numpy())

    with pytest.raises(UnsupportedError, match="structured: the channels of net cannot be followed"):
        channels(model_of(Odd(), x=random(2, 1, 6, 6)))
