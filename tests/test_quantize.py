"""Quantization after training: what the passes leave computes what the formulas say, and the exported file the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.quantized import BlockEmbedding, BlockLinear, DynamicLinear
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, UsageError


class Bag(nn.Module):
    """Mean of embedded ids, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(self.table(ids).mean(1))))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    example = {"ids": torch.randint(0, 50, (4, 7))}
    return Model("bag", Bag().eval(), example, ("logits",), {"ids": {0: "batch", 1: "sequence"}})


@pytest.fixture
def data(model: Model) -> Data:
    rng = np.random.default_rng(0)
    return Data(calibration=[{"ids": rng.integers(0, 50, (8, 7))} for _ in range(3)])


def test_dynamic_int8_without_smoothing_keeps_the_integers_of_per_channel_rounding(model: Model):
    result = DynamicInt8(smooth=0.0)(model, Data())
    layer = result.module.get_submodule("first")
    assert isinstance(layer, DynamicLinear)
    weight = model.module.get_submodule("first").weight
    assert torch.equal(layer.weight.values, per_channel(weight).values)
    assert type(model.module.get_submodule("first")) is nn.Linear, "the model that was handed in has changed"


def test_a_reduced_range_keeps_weights_to_7_bits(model: Model):
    layer = DynamicInt8(smooth=0.0, reduce_range=True)(model, Data()).module.get_submodule("first")
    assert isinstance(layer, DynamicLinear)
    assert int(layer.values.abs().max()) == 63


def test_smoothing_leaves_the_function_as_it_was_but_for_rounding(model: Model, data: Data):
    smoothed = DynamicInt8(smooth=0.8)(model, data)
    expected, found = model(**model.example)["logits"], smoothed(**model.example)["logits"]
    assert (expected - found).abs().max() < 0.02 * expected.abs().max()


def test_smoothing_without_data_is_told_in_one_line(model: Model):
    with pytest.raises(DataError, match="needs calibration data"):
        DynamicInt8(smooth=0.8)(model, Data())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weight_only_holds_the_blocks_of_in_blocks(model: Model, bits: int, symmetric: bool):
    result = WeightOnly(bits=bits, block=16, symmetric=symmetric)(model, Data()).module
    linear, table = result.get_submodule("first"), result.get_submodule("table")
    assert isinstance(linear, BlockLinear)
    assert isinstance(table, BlockEmbedding)
    expected = in_blocks(model.module.get_submodule("first").weight, bits=bits, block=16, symmetric=symmetric)
    assert torch.equal(linear.weight.dequantize(), expected.dequantize())
    assert table.scale.dtype == torch.float16


@pytest.mark.parametrize(
    "step",
    [DynamicInt8(smooth=0.0, reduce_range=True), WeightOnly(bits=4, block=16), WeightOnly(layers=("embedding",))],
)
def test_the_exported_file_computes_what_the_torch_reference_does(model: Model, tmp_path: Path, step):
    result = step(model, Data())
    export(result, "onnx", tmp_path / "bag")
    found = load(tmp_path / "bag")(ids=model.example["ids"].numpy())["logits"]
    expected = result(**model.example)["logits"].numpy()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_settings_that_cannot_be_right_are_refused():
    for wrong in (lambda: DynamicInt8(smooth=1.5), lambda: WeightOnly(bits=3), lambda: WeightOnly(block=24),
                  lambda: WeightOnly(layers=("convolution",)),
                  lambda: WeightOnly(rounding="up")):  # pyright: ignore[reportArgumentType]  # fmt: skip
        with pytest.raises(UsageError, match=r"expected|known"):
            wrong()


def test_a_pattern_that_fits_no_layer_is_refused(model: Model):
    with pytest.raises(UsageError, match="fits no linear layer"):
        DynamicInt8(smooth=0.0, include=("nowhere.*",))(model, Data())


def test_a_model_without_such_layers_comes_back_as_it_is():
    plain = Model("relu", nn.ReLU(), {"x": torch.zeros(2, 3)}, ("y",), {"x": {0: "batch"}})
    assert DynamicInt8()(plain, Data()) is plain
    assert WeightOnly()(plain, Data()) is plain


def test_tables_shorter_than_rows_are_left_to_a_pass_of_their_own(model: Model):
    first = WeightOnly(bits=4, layers=("embedding",), rows=51)(model, Data())
    assert first is model, "50 rows are fewer than 51"
    second = WeightOnly(bits=4, layers=("embedding",), rows=50)(model, Data())
    assert isinstance(second.module.get_submodule("table"), BlockEmbedding)


def test_a_table_of_8_bits_ships_as_8_bits(model: Model, tmp_path: Path):
    result = WeightOnly(bits=8, block=32, layers=("embedding",))(model, Data())
    session = load(export(result, "onnx", tmp_path / "bag").path)
    wanted = result.module(**result.example).detach().numpy()
    assert np.abs(session(ids=result.example["ids"].numpy())["logits"] - wanted).max() < 1e-5
