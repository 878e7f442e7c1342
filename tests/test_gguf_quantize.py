"""llama.cpp's types: what is planned is what is written, nothing is ignored in silence, errors leave no file."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from edgepress.export.gguf_quantize import FILE_TYPES, Planned, file_type, plan, quantize
from edgepress.export.gguf_write import write_gguf
from edgepress.export.shards import read_shards
from edgepress.runtime.errors import ModelError, UnknownName, UnsupportedError

from .tiny_decoders import write_decoder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with rows of 256 and, in one place, of 128."""
    folder = tmp_path_factory.mktemp("llama")
    write_decoder(folder, hidden_size=256, intermediate_size=128)
    write_gguf(read_shards(folder), folder, folder / "model.gguf")
    return folder / "model.gguf"


def ones(source: Path) -> dict[str, np.ndarray]:
    """An importance matrix to which every column is worth the same."""
    return {t.name: np.ones(int(t.shape[0]), np.float32) for t in gguf.GGUFReader(source).tensors if len(t.shape) == 2}


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_what_is_planned_is_what_is_written(source: Path, tmp_path: Path, kind: str):
    made = quantize(source, tmp_path / "q.gguf", kind, importance=ones(source), threads=1)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert [(one.name, one.type, one.bytes) for one in made] == [
        (one.name, read[one.name].tensor_type.name, int(read[one.name].n_bytes)) for one in made
    ]


def test_a_substitution_that_the_shape_forces_is_told(source: Path):
    (down,) = [one for one in plan(source, "Q4_K_S") if one.name == "blk.0.ffn_down.weight"]
    assert (down.wanted, down.type, down.substituted) in {("Q4_K", "Q5_0", True), ("Q5_K", "Q5_1", True)}
    (up,) = [one for one in plan(source, "Q4_K_S") if one.name == "blk.0.ffn_up.weight"]
    assert (up.wanted, up.type, up.substituted, up.better) == ("Q4_K", "Q4_K", False, "")
    assert up.bits == 4.5


def test_a_better_choice_takes_no_more_bytes():
    forced = Planned("w", (32, 128), "F32", "Q4_0", "Q2_K", 32 * 128 // 32 * 18)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[forced.better]]
    assert 32 * 128 // block * size <= forced.bytes


def test_nothing_is_written_by_a_plan(source: Path):
    before = sorted(source.parent.iterdir())
    plan(source, "Q8_0")
    assert sorted(source.parent.iterdir()) == before


def test_a_tensor_may_have_a_type_of_its_own(source: Path, tmp_path: Path):
    made = quantize(source, tmp_path / "q.gguf", "Q4_0", types={"blk.1.attn_q.weight": "Q8_0"}, threads=1)
    types = {one.name: one.type for one in made}
    assert types["blk.1.attn_q.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q4_0"


def test_an_importance_matrix_makes_what_matters_err_less(source: Path, tmp_path: Path):
    name, heavy = "blk.0.ffn_up.weight", np.full(256, 0.01, np.float32)
    heavy[:64] = 1.0
    (weight,) = [t.data for t in gguf.GGUFReader(source).tensors if t.name == name]
    errors = []
    for importance in ({}, ones(source) | {name: heavy}):
        quantize(source, tmp_path / "q.gguf", "Q2_K", importance=importance, threads=1)
        (read,) = [t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors if t.name == name]
        errors.append(float(((gguf.dequantize(read.data, read.tensor_type) - weight) ** 2 * heavy).sum()))
    assert errors[1] < 0.9 * errors[0]


def test_a_type_that_needs_an_importance_matrix_says_so_and_leaves_no_file(source: Path, tmp_path: Path):
    with pytest.raises(UnsupportedError, match="IQ2_XXS needs to know which inputs matter"):
        quantize(source, tmp_path / "q.gguf", "IQ2_XXS", threads=1)
    assert list(tmp_path.iterdir()) == []


def test_names_that_match_nothing_are_refused(source: Path, tmp_path: Path):
    with pytest.raises(UnknownName, match=r"unknown tensor 'blk.9.ffn_up.weight'; known: blk.0.attn_k.weight"):
        quantize(source, tmp_path / "q.gguf", "Q4_0", types={"blk.9.ffn_up.weight": "Q8_0"})
    with pytest.raises(UnknownName, match="unknown tensor 'ffn_up'"):
        quantize(source, tmp_path / "q.gguf", "Q4_0", importance={"ffn_up": np.ones(256, np.float32)})
    with pytest.raises(UnknownName, match="unknown GGUF type 'Q9'"):
        quantize(source, tmp_path / "q.gguf", "Q4_0", types={"blk.0.ffn_up.weight": "Q9"})
    with pytest.raises(UnknownName, match="unknown GGUF type 'q4'"):
        file_type("q4")


@pytest.mark.parametrize("values", [np.ones(255, np.float32), np.full(256, np.nan, np.float32)])
def test_an_importance_that_does_not_fit_is_refused(source: Path, tmp_path: Path, values: np.ndarray):
    with pytest.raises(ModelError, match=r"the importance of blk.0.ffn_up.weight has the shape"):
        quantize(source, tmp_path / "q.gguf", "Q4_0", importance={"blk.0.ffn_up.weight": values})


def test_a_file_that_is_quantized_already_is_refused(source: Path, tmp_path: Path):
    quantize(source, tmp_path / "once.gguf", "Q8_0", threads=1)
    with pytest.raises(ModelError, match=r"cannot be quantized to Q4_0: .*requantizing from type q8_0 is disabled"):
        quantize(tmp_path / "once.gguf", tmp_path / "twice.gguf", "Q4_0", threads=1)
    assert not (tmp_path / "twice.gguf").exists()
