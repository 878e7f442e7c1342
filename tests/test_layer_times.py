"""A layer alone computes what it computes in the model, is exported before and after, and equal ones are timed once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.layer_times import Alone, LayerTimes, alone, layer_inputs
from edgepress.compress.options import Variant, find_option
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime import load

from .quantize_check import chain, data_of, largest_difference, model_of, random, seeded

HOST = find_device("host")


def stacked() -> tuple[Model, Data]:
    """Three linear layers, two of them equal."""
    layers = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    return model_of(seeded(chain(*layers)), x=random(4, 32)), data_of({"x": random(8, 32, seed=1)})


def test_inputs_are_what_each_layer_reads_for_the_first_sample() -> None:
    model, _ = stacked()
    found = layer_inputs(model, ["layer.0", "layer.2", "layer.4"])
    expected = model.example["x"][:1]
    for name in ("layer.0", "layer.2", "layer.4"):
        assert torch.equal(found[name], expected)
        expected = torch.relu(model.module.get_submodule(name)(expected))
    fixed = replace(model, axes={})
    assert layer_inputs(fixed, ["layer.0"])["layer.0"].shape == (4, 32)


def test_a_layer_that_never_runs_has_no_input_and_is_not_timed(tmp_path: Path) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = model_of(seeded(Unused()), x=random(2, 4))
    inputs = layer_inputs(model, ["used", "unused"])
    assert list(inputs) == ["used"]
    timed = LayerTimes(model, inputs, tmp_path)
    assert timed.add(Variant("unused", ("unused",), model.module, model), "int8") == ""
    assert timed.times(HOST, lambda text: None) == {}


def test_equal_layers_are_exported_and_timed_once_with_every_option(tmp_path: Path) -> None:
    model, data = stacked()
    timed = LayerTimes(model, layer_inputs(model, ["layer.0", "layer.2", "layer.4"]), tmp_path)
    keys = {}
    for text in ("int8", "int4"):
        option = find_option(text, HOST)
        for variant in option.variants(model, data, option.names(model)):
            keys[variant.layer, text] = timed.add(variant, text)
    assert len({*keys.values()}) == 2
    assert keys["layer.0", "int8"] == keys["layer.2", "int4"] != keys["layer.4", "int8"]
    assert len(list(tmp_path.iterdir())) == 6
    told: list[str] = []
    found = timed.times(HOST, told.append)
    assert told == ["timing distinct layer 1 of 2", "timing distinct layer 2 of 2"]
    assert sorted(found) == sorted({(key, text) for (_, text), key in keys.items()})
    assert all(before > 0 and after > 0 for before, after in found.values())
    assert len({before for before, _ in found.values()}) == 2  # one for each layer, whatever the option


def test_the_files_hold_the_layer_as_it_came_and_as_it_was_changed(tmp_path: Path) -> None:
    model, data = stacked()
    timed = LayerTimes(model, layer_inputs(model, ["layer.4"]), tmp_path)
    (variant,) = find_option("int8", HOST).variants(model, data, ["layer.4"])
    files = timed.files[timed.add(variant, "int8")]
    x = timed.inputs["layer.4"]
    for name, module in (("", model.module), ("int8", variant.model.module)):
        expected = module.get_submodule("layer.4")(x).detach()
        assert largest_difference(load(files[name].path)(x=x.numpy())["y"], expected) < 1e-5


def test_a_convolution_alone_is_all_int8_as_it_is_between_others(tmp_path: Path) -> None:
    x = random(1, 16, 8, 8)
    made = StaticInt8(reduce_range=HOST.reduce_range)(
        alone(seeded(nn.Conv2d(16, 16, 3)), x, read=True), data_of({"x": x})
    )
    assert made.history[-1].note == "1 layers at int8, per channel; 2 activations at uint8"
    found = load(export(made, "onnx", tmp_path / "conv").path)(x=x.numpy())["y"]
    assert np.abs(found - made(x=x)["y"].numpy()).max() < 0.05
    assert Alone(nn.Identity())(x).shape == x.shape


def test_a_device_without_an_address_is_not_timed(tmp_path: Path) -> None:
    model, data = stacked()
    timed = LayerTimes(model, layer_inputs(model, ["layer.4"]), tmp_path)
    (variant,) = find_option("int8", HOST).variants(model, data, ["layer.4"])
    timed.add(variant, "int8")
    assert timed.times(find_device("pi5"), lambda text: None) == {}
