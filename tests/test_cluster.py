"""The pass `cluster`: what it replaces, what it leaves, and what the exported file is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.cluster import Cluster
from edgepress.compress.data import Data
from edgepress.compress.kmeans import kmeans
from edgepress.compress.layers import find_layers
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.palette import PaletteConv, PaletteEmbedding, PaletteLinear
from edgepress.runtime import load
from edgepress.runtime.errors import ModelError, UnsupportedError, UsageError

from .quantize_check import chain, largest_difference, model_of, random, run, run_file, seeded


class Bag(nn.Module):
    """Mean of embedded ids, a convolution along the width, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 32, padding_idx=0)
        self.filter = nn.Conv1d(1, 8, 5, padding=2)
        self.head = nn.Linear(8 * 32, 24)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.filter(self.table(ids).mean(1)[:, None])).flatten(1))


@pytest.fixture
def model() -> Model:
    example = {"ids": torch.from_numpy(np.random.default_rng(0).integers(0, 60, (4, 7)))}
    return Model("bag", seeded(Bag()).eval(), example, ("y",), {"ids": {0: "batch", 1: "sequence"}})


def weights(model: Model, name: str) -> Tensor:
    weight = model.module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_each_weight_becomes_its_value_of_the_layers_palette(model: Model, bits: int):
    result = Cluster(bits=bits, layers=("linear", "embedding"))(model, Data())
    assert isinstance(result.module.get_submodule("head"), PaletteLinear)
    assert isinstance(result.module.get_submodule("table"), PaletteEmbedding)
    for name in ("head", "table"):
        palette, index = kmeans(weights(model, name).numpy(), 2**bits)
        assert torch.equal(weights(result, name), torch.from_numpy(palette[index]))
    assert type(model.module.get_submodule("head")) is nn.Linear, "the model that was handed in has changed"


def test_groups_have_palettes_of_their_own(model: Model):
    result = Cluster(bits=3, groups=5, layers=("linear",))(model, Data())
    layer = result.module.get_submodule("head")
    assert isinstance(layer, PaletteLinear)
    assert layer.palette.shape == (5, 8)
    parts = [kmeans(part.numpy(), 8) for part in weights(model, "head").tensor_split(5)]
    assert torch.equal(weights(result, "head"), torch.from_numpy(np.concatenate([p[i] for p, i in parts])))
    together = Cluster(bits=3, layers=("linear",))(model, Data())
    before = weights(model, "head")
    assert (weights(result, "head") - before).norm() < (weights(together, "head") - before).norm()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_file_is_small_and_computes_what_the_model_does(model: Model, tmp_path: Path, bits: int):
    result = Cluster(bits=bits)(model, Data())
    export(result, "onnx", tmp_path / "bag")
    found = load(tmp_path / "bag")(ids=model.example["ids"].numpy())["y"]
    assert largest_difference(found, run(result, ids=model.example["ids"])) < 1e-5
    stored = {2: 2, 3: 4, 4: 4, 8: 8}[bits] * (60 * 32 + 24 * 256) / 8
    assert (tmp_path / "bag" / "model.onnx").stat().st_size < stored + 6000


def test_what_a_file_takes_and_what_is_left_stands_in_the_history(model: Model):
    step = Cluster(bits=3, exclude=("table",))(model, Data()).history[-1]
    assert step.note == "2 layers at 3 bits, in palettes of 8 values; a file takes 4 bits for each weight"
    step = Cluster(bits=6)(model, Data()).history[-1]
    assert step.note.endswith("a file takes 8 bits for each weight; 1 left as they are: filter")
    assert Cluster(bits=2)(model, Data()).history[-1].note == "3 layers at 2 bits, in palettes of 4 values"


def test_pruned_weights_stay_exactly_zero(model: Model):
    weight = model.module.get_parameter("head.weight")
    with torch.no_grad():
        weight[weight.abs() < 0.15] = 0
    result = Cluster(bits=4)(model, Data())
    assert not weights(result, "head")[weight == 0].any()


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": 2, "stride": 2, "groups": 4}])
def test_a_convolution_keeps_its_settings(settings: dict, tmp_path: Path):
    model = model_of(chain(seeded(nn.Conv2d(8, 12, 3, **settings))), x=random(2, 8, 9, 9))
    result = Cluster(bits=4)(model, Data())
    assert isinstance(result.module.get_submodule("layer.0"), PaletteConv)
    x = random(3, 8, 9, 9, seed=4)
    with torch.no_grad():
        model.module.get_parameter("layer.0.weight").copy_(weights(result, "layer.0"))
    assert largest_difference(run(result, x=x), run(model, x=x)) == 0
    assert largest_difference(run_file(result, tmp_path, x=x), run(model, x=x)) < 1e-5


def test_passes_that_quantize_leave_a_clustered_layer_alone(model: Model):
    result = Cluster(layers=("linear",))(model, Data())
    assert list(find_layers(result.module, ["linear", "embedding"])) == ["table"]
    assert DynamicInt8(smooth=0.0)(result, Data()) is result
    both = WeightOnly(block=16)(result, Data())
    assert torch.equal(weights(both, "head"), weights(result, "head"))


def test_the_same_model_gives_the_same_bits(model: Model):
    one, other = (Cluster(bits=4, groups=2)(model, Data()).module.state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layers_that_would_not_get_smaller_are_left():
    small = model_of(chain(nn.Linear(4, 4)), x=random(2, 4))
    assert Cluster(bits=8)(small, Data()) is small
    mirrored = model_of(chain(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")), x=random(2, 8, 5, 5))
    assert Cluster()(mirrored, Data()) is mirrored
    plain = model_of(nn.ReLU(), input=random(2, 3))
    assert Cluster()(plain, Data()) is plain


@pytest.mark.parametrize("bits", [1, 9, 0, -4])
def test_bits_beyond_2_to_8_are_refused(bits: int):
    with pytest.raises(UsageError, match=f"cluster: bits = {bits}; expected a number from 2 to 8"):
        Cluster(bits=bits)


def test_settings_patterns_and_weights_that_cannot_be_right_are_refused(model: Model):
    with pytest.raises(UsageError, match="groups = 0; expected at least 1"):
        Cluster(groups=0)
    with pytest.raises(UsageError, match=r"layers = \['lstm'\]; known kinds: linear, embedding, conv1d, conv2d"):
        Cluster(layers=("lstm",))
    with pytest.raises(UsageError, match="fits no linear or embedding or conv1d or conv2d layer"):
        Cluster(include=("nowhere",))(model, Data())
    cut = model_of(chain(nn.Embedding(20, 20, max_norm=1.0)), x=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UnsupportedError, match="max_norm"):
        Cluster()(cut, Data())
    with torch.no_grad():
        model.module.get_parameter("head.weight")[0, 0] = float("inf")
    with pytest.raises(ModelError, match="inf"):
        Cluster()(model, Data())
