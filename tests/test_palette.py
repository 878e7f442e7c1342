"""Palettes: the operator, its gradient, and the packed file: exactly `palette[index]`, and as fast as float."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.export.onnx import write
from edgepress.export.palette import PaletteConv, PaletteEmbedding, PaletteLinear, lookup, stored_bits

from .lower_check import held, lowered, operators, ours, run
from .quantize_check import chain, largest_difference, model_of, random, run_file
from .quantize_check import run as run_torch


def palette_of(index: Tensor, groups: int = 1, values: int = 16) -> tuple[Tensor, Tensor]:
    return index, random(groups, values, seed=3)


def numbers(*shape: int, values: int = 16) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, values, shape).astype(np.uint8))


@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 4), (4, 4), (5, 8), (7, 8), (8, 8)])
def test_an_index_is_stored_in_the_next_width_there_is(bits: int, stored: int):
    assert stored_bits(bits) == stored


@given(rows=st.integers(1, 7), groups=st.integers(1, 9), seed=st.integers(0, 99))
def test_each_row_looks_up_the_palette_of_its_group(rows: int, groups: int, seed: int):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 4, (rows, 3)).astype(np.uint8)
    palette = random(groups, 4, seed=seed)
    weight = lookup(torch.from_numpy(index), palette)
    group = [g for g, part in enumerate(np.array_split(np.arange(rows), groups)) for _ in part]
    expected = [[palette[group[r], index[r, c]] for c in range(3)] for r in range(rows)]
    assert torch.equal(weight, torch.tensor(expected))


@pytest.mark.parametrize("groups", [1, 3])
def test_a_shared_value_gets_the_sum_of_its_members_gradients(groups: int):
    index, palette = palette_of(numbers(5, 4), groups)
    palette.requires_grad_()
    upstream = random(5, 4, seed=9)
    lookup(index, palette).backward(upstream)
    expected = torch.zeros(groups, 16)
    group = [g for g, part in enumerate(np.array_split(np.arange(5), groups)) for _ in part]
    for r in range(5):
        for c in range(4):
            expected[group[r], int(index[r, c])] += upstream[r, c]
    assert palette.grad is not None
    assert torch.allclose(palette.grad, expected, atol=1e-6)


def test_training_moves_the_shared_values_and_leaves_zeros_and_sharing():
    torch.manual_seed(0)
    index, palette = palette_of(numbers(6, 8))
    palette[0, 5] = 0.0
    layer = PaletteLinear(nn.Linear(8, 6), index, palette.clone())
    x, wanted = random(64, 8), random(64, 6, seed=2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.1)
    losses = []
    for _ in range(60):
        loss = (layer(x) - wanted).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not layer.weight[index == 5].any()
    assert (layer.palette[0, :5] != palette[0, :5]).all()
    assert len(layer.weight.unique()) <= 16


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("values", "shape"), [(4, (5, 6)), (4, (5, 3)), (8, (5, 6)), (16, (5, 7)), (256, (5, 6))])
def test_the_file_gives_exactly_the_palettes_values(values: int, shape: tuple[int, int], groups: int):
    index, palette = palette_of(numbers(*shape, values=values), groups, values)
    model = lowered([ours("lookup", "index palette")], {}, {"index": index.numpy(), "palette": palette.numpy()})
    for optimize in (True, False):
        np.testing.assert_array_equal(run(model, optimize=optimize)[0], lookup(index, palette).numpy())


@pytest.mark.parametrize(("values", "bits"), [(4, 2), (8, 4), (16, 4), (32, 8), (256, 8)])
def test_the_index_takes_as_few_bits_as_the_format_has(values: int, bits: int):
    index, palette = palette_of(numbers(64, 64, values=values), values=values)
    model = lowered([ours("lookup", "index palette")], {}, {"index": index.numpy(), "palette": palette.numpy()})
    (stored,) = (t for t in model.graph.initializer if t.name == "index_packed")
    assert len(stored.raw_data) * 8 == 64 * 64 * bits
    if bits >= 4:
        np.testing.assert_array_equal(held(model, "index_packed").astype(np.uint8), index.numpy())
    assert {t.name for t in model.graph.initializer} <= {"index_packed", "index_packed_shape", "palette_values"}


def test_layers_that_share_a_weight_share_it_in_the_file():
    index, palette = palette_of(numbers(8, 8))
    calls = [ours("lookup", "index palette", "y"), ours("lookup", "index palette", "z")]
    model = lowered(calls, {}, {"index": index.numpy(), "palette": palette.numpy()}, "y z")
    assert operators(model)["Gather"] == 2
    assert len(model.graph.initializer) == 2


@pytest.mark.parametrize("values", [4, 16, 256])
def test_the_engine_computes_the_weights_once_when_it_loads(tmp_path: Path, values: int):
    """What is left to run is what the float model's file runs, so it is as fast."""
    index, palette = palette_of(numbers(64, 32, values=values), values=values)
    clustered = model_of(chain(PaletteLinear(nn.Linear(32, 64), index, palette), nn.ReLU()), x=random(2, 32))
    plain = nn.Linear(32, 64)
    plain.weight = nn.Parameter(lookup(index, palette))
    left = []
    for name, model in ("clustered", clustered), ("plain", model_of(chain(plain, nn.ReLU()), x=random(2, 32))):
        (tmp_path / name).mkdir()
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(write(model, tmp_path / name), options, providers=["CPUExecutionProvider"])
        left.append(operators(onnx.load(tmp_path / f"{name}.onnx")))
    assert left[0] == left[1]
    assert "Gather" not in left[0]


class Ids(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


@pytest.mark.parametrize("groups", [1, 4])
def test_every_kind_of_layer_computes_what_torchs_own_does_with_that_weight(tmp_path: Path, groups: int):
    torch.manual_seed(0)
    layers = (
        (nn.Linear(6, 8), PaletteLinear, random(3, 6)),
        (nn.Conv2d(4, 8, 3, 2, padding=1, groups=2), PaletteConv, random(3, 4, 9, 9)),
        (nn.Conv1d(4, 8, 3, padding="same", dilation=2, bias=False), PaletteConv, random(3, 4, 11)),
    )
    for place, (layer, kind, x) in enumerate(layers):
        index, palette = palette_of(numbers(*layer.weight.shape), groups)
        model = model_of(chain(kind(layer, index, palette)), x=x)
        with torch.no_grad():
            layer.weight.copy_(lookup(index, palette))
        assert largest_difference(run_torch(model, x=x), layer(x)) == 0
        folder = tmp_path / str(place)
        folder.mkdir()
        assert largest_difference(run_file(model, folder, x=x), layer(x)) < 1e-5


def test_an_embedding_gives_its_rows(tmp_path: Path):
    index, palette = palette_of(numbers(9, 4), 2)
    ids = torch.tensor([[0, 8], [5, 3]])
    model = model_of(Ids(PaletteEmbedding(nn.Embedding(9, 4), index, palette)), ids=ids)
    expected = lookup(index, palette)[ids]
    assert largest_difference(run_torch(model, ids=ids), expected) == 0
    assert largest_difference(run_file(model, tmp_path, ids=ids), expected) == 0


@pytest.mark.parametrize("values", [4, 16, 256])
def test_an_engine_that_opens_a_clustered_embedding_keeps_bytes_and_no_floats(tmp_path: Path, values: int):
    index, palette = palette_of(numbers(50, 8, values=values), values=values)
    ids = torch.tensor([[0, 49], [5, 3]])
    model = model_of(Ids(PaletteEmbedding(nn.Embedding(50, 8), index, palette)), ids=ids)
    assert largest_difference(run_file(model, tmp_path, ids=ids), lookup(index, palette)[ids]) == 0
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "loaded.onnx"), 4
    ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    tables = [t for t in onnx.load(tmp_path / "loaded.onnx").graph.initializer if tuple(t.dims) == (50, 8)]
    assert [t.data_type for t in tables] == ([onnx.TensorProto.FLOAT] if values == 4 else [onnx.TensorProto.UINT8])
