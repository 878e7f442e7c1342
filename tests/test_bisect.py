"""Bisect names the layer where two files part: faults planted into real files, against good files and the source."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.part import shared_inputs
from edgepress.compress.source import read_source
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.bisect import File, bisect
from edgepress.export.follow import operations
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.precision import precision_of

from . import faults
from .quantize_check import random, seeded
from .tiny_encoders import read_tiny

SOURCE = File("source", None, "", "float32")
HOST = find_device("host")


class Made:
    """A model, a sample of it, and its files by format."""

    def __init__(self, source: Model, shipped: Model, folder: Path, formats: tuple[str, ...]) -> None:
        self.source = operations(source)
        self.files: dict[str, File] = {}
        for format_ in formats:
            made = export(shipped, format_, folder / format_)
            self.files[format_] = File(format_, made.model, format_, precision_of(made))
        example = {name: tensor.numpy() for name, tensor in source.example.items()}
        inputs = shared_inputs(source.example, example, list(self.files.values()))
        assert inputs is not None
        self.inputs = inputs

    def with_fault(self, fault: Callable, folder: Path) -> File:
        good = self.files["onnx"]
        assert good.path is not None
        return File("faulty", faults.planted(good.path, folder / "faulty.onnx", fault), "onnx", good.precision)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bisect")


@pytest.fixture(scope="module")
def digits(digits_task: Path, folder: Path) -> Made:
    model = read_source(str(digits_task), None).model
    return Made(model, model, folder / "digits", ("onnx", "tflite"))


@pytest.fixture(scope="module")
def digits_int8(digits_task: Path, folder: Path) -> Made:
    task = read_source(str(digits_task), None)
    step = StaticInt8(activation="int8", reduce_range=HOST.reduce_range)
    return Made(task.model, step(task.model, task.data), folder / "digits-int8", ("onnx", "tflite"))


@pytest.fixture(scope="module")
def depthwise(digits_sample, folder: Path) -> Made:
    """A depthwise separable network whose channels differ in size, as trained ones do."""
    network = seeded(digits_sample.DsCnn(width=16, blocks=2)).eval()
    with torch.no_grad():
        for weight in (network.blocks[i][0][0].weight for i in range(2)):
            weight *= torch.logspace(0, -3, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))].view(
                -1, 1, 1, 1
            )
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):  # as training leaves it: channels of one size again
                part.train().momentum = 1.0
        images = random(16, 1, 32, 32)
        network(images)
    model = Model("ds", network.eval(), {"image": images[:2]}, ("logits",), {"image": {0: "batch"}})
    data = Data(calibration=[{"image": images.numpy()}])
    step = StaticInt8(min_products=1, reduce_range=HOST.reduce_range)
    return Made(model, step(model, data), folder / "ds", ("onnx", "tflite"))


class Normed(nn.Module):
    """Two linear layers, each after a layer normalization of what hardly varies."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(32, eps=1e-2), nn.LayerNorm(32, eps=1e-2)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.after(0.1 * torch.tanh(self.first(self.before(x)))))


@pytest.fixture(scope="module")
def normed(folder: Path) -> Made:
    model = Model("normed", seeded(Normed()).eval(), {"x": random(2, 32)}, ("y",), {"x": {0: "batch"}})
    return Made(model, model, folder / "normed", ("onnx", "tflite"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Made:
    """Attention with a mask, residuals that carry on what a layer got wrong, and a pooler that no file has."""
    model = read_tiny(folder).model
    return Made(model, model, folder / "encoder", ("onnx", "tflite"))


FAULTS = [
    pytest.param(
        "encoder",
        faults.columns_swapped("layer.0.attention.self.value"),
        "encoder.encoder.layer.0.attention.self.value",
        id="columns of a product swapped",
    ),
    pytest.param("digits", faults.channels_swapped(3), "stacks.1.first.0", id="channel order swapped"),
    pytest.param("digits_int8", faults.zero_point_moved(2, 25), "stacks.0", id="a wrong zero point"),
    pytest.param(
        "depthwise", faults.one_scale_for_all_channels(1), "blocks.0.0.0", id="per-tensor on a depthwise layer"
    ),
    pytest.param("normed", faults.epsilon_dropped(1), "after", id="an epsilon dropped in a normalization"),
    pytest.param("digits", faults.relu_before_add(1), "stacks.1", id="two operations reordered"),
]


@pytest.mark.parametrize(("made", "fault", "layer"), FAULTS)
@pytest.mark.parametrize("against", ["onnx", "tflite", "source"])
def test_the_right_layer_is_named(
    made: str, fault: Callable, layer: str, against: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    which: Made = request.getfixturevalue(made)
    good = SOURCE if against == "source" else which.files.get(against, SOURCE)
    faulty = which.with_fault(fault, tmp_path)
    found = bisect(which.source, which.inputs, good, faulty)
    assert found is not None
    assert layer in found.modules
    assert found.file == "faulty"
    assert found.values[0] != found.values[1]
    assert bisect(which.source, which.inputs, faulty, good) is not None


@pytest.mark.parametrize("made", ["digits", "digits_int8", "depthwise", "normed", "encoder"])
def test_files_without_a_fault_do_not_part(made: str, request: pytest.FixtureRequest) -> None:
    which: Made = request.getfixturevalue(made)
    for file in which.files.values():
        assert bisect(which.source, which.inputs, SOURCE, file) is None
    if len(which.files) > 1:
        assert bisect(which.source, which.inputs, *which.files.values()) is None
