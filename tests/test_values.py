"""Every float value between a file's inputs and its outputs, in both formats, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.values import file_values, fixed_shapes
from edgepress.runtime import load
from edgepress.runtime.errors import EngineError, UnknownName

from .quantize_check import random, seeded


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model("net", seeded(Net()).eval(), {"image": random(2, 1, 8, 8)}, ("y",), {"image": {0: "batch"}})


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_what_lies_between_is_there_and_the_last_one_is_the_output(model: Model, to: str, tmp_path: Path) -> None:
    made = export(model, to, tmp_path / to)
    image = random(1, 1, 8, 8, seed=5)
    found = file_values(made.model, to, {"image": image.numpy()})
    assert [value.place for value in found] == list(range(len(found)))
    net = model.module
    assert isinstance(net, Net)
    with torch.no_grad():
        hidden = torch.relu(net.conv(image)).numpy()
    layouts = [hidden, hidden.transpose(0, 2, 3, 1)]
    assert any(
        value.array.shape == layout.shape and np.allclose(value.array, layout, atol=1e-5)
        for value in found
        for layout in layouts
    )
    assert np.allclose(found[-1].array, load(made.path)(image=image.numpy())["y"], atol=1e-5)


def test_integers_come_as_the_floats_that_they_stand_for(model: Model, tmp_path: Path) -> None:
    data = Data(calibration=[{"image": random(8, 1, 8, 8, seed=3).numpy()}])
    small = StaticInt8(min_products=1, activation="int8", reduce_range=find_device("host").reduce_range)(model, data)
    image = {"image": random(1, 1, 8, 8, seed=5).numpy()}
    largest = []
    for to in ("onnx", "tflite"):
        made = export(small, to, tmp_path / to)
        hidden = [v.array for v in file_values(made.model, to, image) if v.array.size == 4 * 64]
        assert all(array.dtype == np.float32 for array in hidden)
        largest.append(max(float(np.abs(array).max()) for array in hidden))
    assert largest[0] == pytest.approx(largest[1], rel=0.05)


def test_only_a_tflite_file_has_fixed_shapes_those_of_its_shortest_signature(model: Model, tmp_path: Path) -> None:
    onnx, tflite = (export(model, to, tmp_path / to).model for to in ("onnx", "tflite"))
    assert fixed_shapes(onnx, "onnx") == {}
    assert fixed_shapes(tflite, "tflite") == {"image": (1, 1, 8, 8)}


def test_what_does_not_run_and_what_is_not_looked_into_are_told(model: Model, tmp_path: Path) -> None:
    made = export(model, "onnx", tmp_path / "net")
    with pytest.raises(EngineError, match="does not run with its inner values shown"):
        file_values(made.model, "onnx", {"image": np.zeros((1, 3, 8, 8), np.float32)})
    with pytest.raises(UnknownName, match="gguf"):
        file_values(made.model, "gguf", {})
