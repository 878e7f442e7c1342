"""Packed int8: 4 bits in the file, int8 in the engine, and the same numbers as the torch reference."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.distill import Distill
from edgepress.compress.packed import PackedInt8, row_scale, two_levels
from edgepress.compress.qat import Qat
from edgepress.compress.train import Training
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.quantized import PackedLinear, unpacked
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, ModelError, UsageError

LIMITS = st.sampled_from([63, 127])


def model(width: int = 64, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(width, 96), nn.ReLU(), nn.Linear(96, 24))
    return Model("net", net, {"input": torch.randn(2, width)}, ("y",), {"input": {0: "batch"}})


def data(width: int = 64) -> Data:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((width, width)).astype(np.float32)
    found = [{"input": rng.standard_normal((16, width)).astype(np.float32) @ mix} for _ in range(8)]
    return Data(calibration=found, training=found)


def layer(model: Model, name: str) -> PackedLinear:
    found = model.module.get_submodule(name)
    assert isinstance(found, PackedLinear)
    return found


@given(st.integers(0, 10**6), LIMITS, st.floats(1e-3, 1e3))
def test_both_levels_are_4_bits_and_their_product_stays_in_range(seed: int, limit: int, spread: float):
    part = spread * torch.randn(9, 32, generator=torch.Generator().manual_seed(seed))
    scale = row_scale(part, limit)
    multiplier, zero = two_levels(part, scale, limit)
    assert bool(((multiplier >= 1) & (multiplier <= 15) & (zero >= 0) & (zero <= 15)).all())
    assert bool((multiplier * torch.maximum(zero, 15 - zero) <= limit).all())


@given(st.integers(0, 10**6), LIMITS)
def test_the_levels_of_a_block_are_the_best_of_all_that_were_tried(seed: int, limit: int):
    """No multiplier at all does much better: what is searched loses at most a tenth."""
    part = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
    scale = row_scale(part, limit)

    def error(m: float, z: float) -> float:
        q = ((part / (m * scale)).round() + z).clamp(0, 15)
        return float((scale * m * (q - z) - part).square().sum())

    multiplier, zero = two_levels(part, scale, limit)
    allowed = [(m, z) for m in range(1, 16) for z in range(16) if m * max(z, 15 - z) <= limit]
    assert error(float(multiplier), float(zero)) <= 1.1 * min(error(m, z) for m, z in allowed) + 1e-6


@pytest.mark.parametrize("gptq", [True, False], ids=["gptq", "nearest"])
def test_the_exported_file_computes_what_the_torch_reference_computes(gptq: bool, tmp_path: Path):
    packed = PackedInt8(gptq=gptq, reduce_range=find_device("host").reduce_range)(model(), data())
    artifact = export(packed, "onnx", tmp_path / "packed")
    x = np.array(data().calibration[0]["input"])  # pyright: ignore[reportIndexIssue]
    found = load(artifact.path)(input=x)["y"]
    expected = packed(input=torch.from_numpy(x))["y"].numpy()
    # one activation in 255 may round the other way in the second layer
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()


def test_gptq_keeps_the_outputs_nearer_than_rounding_does():
    original, x = model(), torch.from_numpy(np.array(data().calibration[0]["input"]))  # pyright: ignore
    errors = [
        float((PackedInt8(gptq=gptq)(original, data())(input=x)["y"] - original(input=x)["y"]).square().mean())
        for gptq in (True, False)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_file_holds_4_bits_and_the_engine_int8(tmp_path: Path):
    wide = PackedInt8(gptq=False)(model(width=512), data())
    artifact = export(wide, "onnx", tmp_path / "packed")
    weights = 512 * 96 + 96 * 24
    assert artifact.bytes < weights / 2 * 1.15 + 4000
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(artifact.model, options)
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    assert not {"Sub", "Reshape"} & operators.keys()  # folded at load
    assert {tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8} == {(512, 96), (96, 24)}


def test_the_integers_are_the_products_of_both_levels():
    packed = layer(PackedInt8(gptq=False)(model(), data()), "0")
    values, multiplier, zero = (t.int().numpy() for t in (packed.values, packed.multiplier, packed.zero))
    expected = np.empty_like(values)
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            block = column // packed.block
            expected[row, column] = multiplier[row, block] * (values[row, column] - zero[row, block])
    found = unpacked(packed.values, packed.multiplier, packed.zero, packed.block)
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), expected)
    original = model().module.get_submodule("0").weight
    assert isinstance(original, torch.Tensor)
    step = (packed.multiplier * packed.scale[:, None]).max()
    assert float((packed.weight.dequantize() - original.detach()).abs().max()) <= 1.5 * float(step)


def test_a_range_of_7_bits_is_kept():
    packed = layer(PackedInt8(reduce_range=True)(model(), data()), "0")
    assert int(packed.weight.values.abs().max()) <= 63


def test_training_moves_the_integers_nearer_to_the_teacher(tmp_path: Path):
    original, x = model(), torch.from_numpy(np.array(data().calibration[0]["input"]))  # pyright: ignore
    plain = PackedInt8()(original, data())
    distill = Distill(training=Training(epochs=20, rate=1e-3))
    trained = Qat(packed=PackedInt8(), distill=distill)(original, data())
    assert isinstance(trained.module.get_submodule("0"), PackedLinear)
    cosines = [
        float(nn.functional.cosine_similarity(m(input=x)["y"], original(input=x)["y"]).mean()) for m in (plain, trained)
    ]
    assert 1 - cosines[1] < 0.8 * (1 - cosines[0])


def test_zeros_stay_zeros():
    pruned = model()
    weight = pruned.module.get_submodule("0").weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        weight[:, 32:] = 0
    packed = layer(PackedInt8()(pruned, data()), "0")
    assert not packed.weight.dequantize()[:, 32:].any()


def test_a_layer_that_no_block_divides_is_left_and_so_is_a_model_without_linear_layers():
    odd = Model("net", nn.Sequential(nn.Linear(33, 4)), {"input": torch.randn(2, 33)}, ("y",), {"input": {0: "batch"}})
    assert PackedInt8()(odd, Data()) is odd


def test_what_cannot_be_packed_is_one_line():
    with pytest.raises(UsageError, match="packed_int8: block = 4; expected at least 8"):
        PackedInt8(block=4)
    with pytest.raises(DataError, match="packed_int8 needs calibration data"):
        PackedInt8()(model(), Data())
    broken = model()
    with torch.no_grad():
        broken.module.get_submodule("0").bias.fill_(0)  # pyright: ignore
        broken.module.get_submodule("0").weight[0, 0] = torch.nan  # pyright: ignore
    with pytest.raises(ModelError, match="a weight"):
        PackedInt8(gptq=False)(broken, Data())
