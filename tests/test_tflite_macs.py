"""Multiply-accumulates of a TFLite file are those of its layers, counted by hand."""

from pathlib import Path

import torch
from torch import nn

from edgepress.export.model import Model
from edgepress.export.tflite import write
from edgepress.export.tflite_macs import macs

from .quantize_check import seeded
from .tflite_check import Graph, build, pooled


class Mixed(nn.Module):
    """A convolution, a depthwise one, a product of two activations, a linear layer: `x` [1, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.depthwise(self.conv(x)).flatten(2)
        return self.linear((states @ states.transpose(1, 2)).flatten(1))


def test_each_kind_of_layer_counts_what_a_hand_counts(tmp_path: Path):
    model = Model("mixed", seeded(Mixed()).eval(), {"x": torch.ones(1, 3, 8, 8)}, ("y",), {})
    counts = [count for count in macs(write(model, tmp_path)) if count is not None]
    assert sorted(counts) == sorted([64 * 4 * 3 * 9, 64 * 4 * 9, 4 * 4 * 64, 16 * 5])


def test_a_linear_layer_counts_each_token(tmp_path: Path):
    counts = macs(write(pooled(sequence=(16,)), tmp_path))
    assert [count for count in counts if count is not None] == [16 * 8 * 3]


def test_an_addition_counts_nothing(tmp_path: Path):
    assert macs(build(tmp_path / "m.tflite", Graph((1, 3), "run"))) == [None]
