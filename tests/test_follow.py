"""A file is followed through its source: layers are found by what they compute, whatever the file calls them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.export.follow import Layer, follow, operations
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.values import Value, file_values

from .quantize_check import random, seeded


class Net(nn.Module):
    """Convolution, normalization, a skip, attention's mask: what exporters fold, fuse and lay out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.again, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(image)))
        return self.head((x + self.again(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> Model:
    net = seeded(Net())
    net.norm.running_var.uniform_(0.5, 2.0)
    return Model("net", net.eval(), {"image": random(2, 1, 8, 8)}, ("y",), {"image": {0: "batch"}})


def seen(layers: list[Layer]) -> dict[str, Layer]:
    return {f"{layer.module}:{layer.operation}": layer for layer in layers}


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_layers_are_found_exactly_and_what_is_folded_is_known_as_such(model: Model, to: str, tmp_path: Path) -> None:
    made = export(model, to, tmp_path / to)
    image = random(1, 1, 8, 8, seed=3).numpy()
    found = seen(follow(operations(model), [image], file_values(made.model, to, {"image": image}), 1e-2))
    assert not found["conv:conv2d"].found
    assert found["conv:conv2d"].found_after
    for name in (":relu", "again:conv2d", ":mean", "head:linear"):
        assert found[name].found, name
        assert found[name].error < 1e-5
    assert not any(layer.lost for layer in found.values())


def test_each_error_is_that_of_the_layer_alone(model: Model, tmp_path: Path) -> None:
    """The first convolution's value is made a tenth larger: only that layer is wrong, all later ones are exact."""
    made = export(model, "onnx", tmp_path / "net")
    image = random(1, 1, 8, 8, seed=3).numpy()
    net = model.module
    assert isinstance(net, Net)
    with torch.no_grad():
        x = torch.relu(1.1 * net.norm(net.conv(torch.from_numpy(image))))
        values = [x, net.again(x), x + net.again(x), net.head((x + net.again(x)).mean((2, 3)))]
    assert made.bytes
    wrong = [Value(str(i), i, value.numpy()) for i, value in enumerate(values)]
    found = seen(follow(operations(model), [image], wrong, 0.2))
    assert found[":relu"].error == pytest.approx(0.1, rel=0.01)
    assert max(found[name].error for name in ("again:conv2d", ":add", "head:linear")) < 1e-5


def test_a_value_that_is_not_there_is_lost_and_so_is_all_after_it(model: Model) -> None:
    image = random(1, 1, 8, 8, seed=3).numpy()
    net = model.module
    assert isinstance(net, Net)
    with torch.no_grad():
        x = torch.relu(net.norm(net.conv(torch.from_numpy(image))))
    values = [Value("x", 0, x.numpy()), Value("noise", 1, random(1, 6, 8, 8, seed=9).numpy())]
    found = seen(follow(operations(model), [image], values, 0.05))
    assert found[":relu"].found
    assert [name for name, layer in found.items() if layer.lost] == ["again:conv2d", ":add", ":mean", "head:linear"]
    assert not found["conv:conv2d"].lost


def test_what_masks_is_no_error() -> None:
    """One file writes the lowest float where a token is masked, another -1e9."""

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x + torch.tensor([0.0, 0.0, 0.0, torch.finfo(torch.float32).min]), -1)

    model = Model("masked", Masked().eval(), {"x": random(2, 4)}, ("y",), {})
    x = random(2, 4)
    other = x + torch.tensor([0.0, 0.0, 0.0, -1e9])
    values = [Value("a", 0, other.numpy()), Value("b", 1, torch.softmax(other, -1).numpy())]
    layers = follow(operations(model), [x.numpy()], values, 1e-3)
    assert all(layer.found and layer.error < 1e-6 for layer in layers if layer.operation in ("add", "softmax"))
    assert np.isfinite(max(layer.error for layer in layers))
