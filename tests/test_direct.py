"""A program that is spared its decomposition becomes a file that computes the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.export import onnx as exporter
from edgepress.export.direct import spare
from edgepress.export.model import Model
from edgepress.export.trace import trace
from edgepress.runtime import load


class Does(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def model(function: Callable[[Tensor], Tensor]) -> Model:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
    return Model("net", Does(function), {"x": x}, ("y",), {"x": {0: "batch", 1: "sequence"}})


def is_spared(function: Callable[[Tensor], Tensor]) -> bool:
    program = trace(model(function))
    spare(program)
    return "run_decompositions" in vars(program)


WEIGHT, KERNEL = torch.arange(20.0).reshape(5, 4) / 20, torch.arange(54.0).reshape(2, 3, 3, 3) / 54
ONES = torch.ones(9)
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (1.5 - x) * x + x / (x.abs() + 1) - x.exp().sqrt().rsqrt(),
    "promoted": lambda x: x + torch.arange(4) / 2 - (x > 0).to(torch.float32),
    "activations": lambda x: x.relu() + x.sigmoid() + x.tanh() + nn.functional.gelu(x) + x.softmax(-1),
    "gelu by tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "linear": lambda x: nn.functional.linear(x, WEIGHT, ONES[:5]),
    "products": lambda x: (
        (x @ x.transpose(1, 2)) @ x + torch.bmm(x @ WEIGHT.transpose(0, 1), WEIGHT.expand(x.shape[0], 5, 4))
    ),
    "norms": lambda x: nn.functional.layer_norm(nn.functional.normalize(x, dim=-1), (4,), ONES[:4]),
    "shapes": lambda x: x.reshape(x.shape[0], -1, 2).permute(0, 2, 1).contiguous().view(x.shape[0], -1).unsqueeze(1),
    "slices": lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1), x.select(2, 1)[:, :2]], -1),
    "dropout": lambda x: nn.functional.dropout(x, 0.5, training=False).flatten(1),
    "gather": lambda x: x.gather(2, torch.zeros_like(x, dtype=torch.int64)).sum((1,)),
    "image": lambda x: nn.functional.conv2d(x[:, :, None].expand(-1, -1, 3, -1)[:, :3], KERNEL, padding=1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_with_and_without_decomposition_the_files_compute_what_torch_computes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = model(PLAIN[name])
    x = made.example["x"] if name == "image" else torch.cat([made.example["x"]] * 2, 1)
    for folder in ("spared", "decomposed"):
        (tmp_path / folder).mkdir()
        y = load(exporter.write(made, tmp_path / folder))(x=x.numpy())["y"]
        np.testing.assert_allclose(y, made(x=x)["y"].numpy(), rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(exporter, "spare", lambda program: None)


@pytest.mark.parametrize("name", ["arithmetic", "activations", "linear", "products", "norms", "shapes", "dropout"])
def test_what_the_exporter_writes_as_it_stands_is_spared(name: str):
    assert is_spared(PLAIN[name])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1).add_(x),  # writes
        lambda x: nn.functional.dropout(x, 0.5, training=True),
        lambda x: torch.rsub(x, x),
        lambda x: torch.rsub(x, 1.0, alpha=2),
        lambda x: torch.special.erfcx(x),
    ],
)
def test_what_has_to_be_taken_apart_is_decomposed(function: Callable[[Tensor], Tensor]):
    assert not is_spared(function)
