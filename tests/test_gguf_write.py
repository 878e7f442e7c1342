"""A GGUF file holds what the folder holds: llama.cpp computes and tokenizes as transformers does, or it is refused."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgepress.export.gguf_architectures import ARCHITECTURES
from edgepress.export.gguf_write import FLOATS, stored_type, write_gguf
from edgepress.export.shards import SINGLE, read_shards
from edgepress.runtime.errors import EdgepressError, ModelError, UnsupportedError, UsageError
from edgepress.runtime.ggml import start

from .tiny_decoders import write_decoder

DECODERS = [kind for kind in ARCHITECTURES if kind != "bert"]
# llama.cpp takes GELU from a table of half floats; what has none is as near as float sums in another order are.
NEAR = dict.fromkeys(DECODERS, 1e-5) | {"gpt2": 1e-3, "gemma": 5e-3, "gemma2": 5e-3, "gemma3_text": 5e-3}


def logits(path: Path, ids: list[int]) -> np.ndarray:
    """What the runtime gives for one row of tokens, its cache in float32."""
    return start(path, threads=1).run({"input_ids": np.array([ids])})["logits"][0]


def farthest(folder: Path) -> float:
    """The largest difference of a logit from what transformers reads of the folder, over 60 positions."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    write_gguf(read_shards(folder), folder, folder / "model.gguf")
    ids = np.random.default_rng(0).integers(5, 500, 60).tolist()
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    return float(np.abs(logits(folder / "model.gguf", ids) - wanted).max())


@pytest.fixture(scope="module", params=DECODERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """The kind of a decoder, transformers' model of it, and its file."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_decoder(folder, request.param)
    write_gguf(read_shards(folder), folder, folder / "model.gguf")
    return request.param, model, folder / "model.gguf"


def test_llama_cpp_computes_what_transformers_computes(written: tuple[str, Any, Path]):
    kind, model, path = written
    ids = np.random.default_rng(0).integers(5, 500, 40).tolist()
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    found = logits(path, ids)
    assert np.abs(found - wanted).max() < NEAR[kind]
    assert (found.argmax(-1) == wanted.argmax(-1)).all()


def test_every_float_type_is_written_and_vectors_stay_float32(tmp_path: Path):
    write_decoder(tmp_path)
    for kind in FLOATS:
        parts = write_gguf(read_shards(tmp_path), tmp_path, tmp_path / f"{kind}.gguf", type=kind)
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / f"{kind}.gguf").tensors}
        assert types == {part.name: part.type for part in parts}
        assert types["token_embd.weight"] == kind
        assert types["blk.0.attn_norm.weight"] == "F32"


def test_bfloat16_weights_are_kept_as_they_are(tmp_path: Path):
    write_decoder(tmp_path)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / SINGLE).items()}
    save_file(weights, tmp_path / SINGLE)
    assert stored_type(read_shards(tmp_path)) == "BF16"
    write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")
    (table,) = [t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors if t.name == "token_embd.weight"]
    assert np.array_equal(table.data.view(np.uint16), weights["model.embed_tokens.weight"].view(torch.uint16).numpy())


def test_llama_3_1_scales_its_rotary_frequencies(tmp_path: Path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    write_decoder(tmp_path, rope_parameters=rope)
    assert farthest(tmp_path) < 1e-5


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("scaling", [LINEAR, YARN])
def test_linear_and_yarn_scaling_are_kept(tmp_path: Path, scaling: dict[str, Any]):
    write_decoder(tmp_path, "qwen2", rope_parameters={"rope_theta": 10000.0} | scaling)
    assert farthest(tmp_path) < 1e-4


def test_a_window_that_llama_cpp_does_not_have_cuts_the_context(tmp_path: Path):
    write_decoder(tmp_path, "mistral", sliding_window=48)
    write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")
    field = gguf.GGUFReader(tmp_path / "model.gguf").get_field("llama.context_length")
    assert field is not None
    assert field.contents() == 48


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("kind", "changes", "message"), [
    ("llama", {"model_type": "mamba"}, "the model_type 'mamba' cannot be written as GGUF; those that can: llama"),
    ("llama", {"hidden_act": "gelu"}, "llama: hidden_act is 'gelu', which llama.cpp does not compute there; 'silu'"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' cannot be written"),
    ("qwen2", {"use_sliding_window": True}, "qwen2: use_sliding_window is True"),
    ("gemma2", {"layer_types": ["full_attention", "full_attention"]}, "the last of 2 layers attends to everything"),
    ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256; llama.cpp computes it with 16"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "gpt2: scale_attn_by_inverse_layer_idx is True"),
])  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
):
    write_decoder(tmp_path, kind)
    edit(tmp_path, **changes)
    with pytest.raises(UnsupportedError, match=message):
        write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "the weights lack blk.1.ffn_up.weight"),
    (lambda w: w.pop("model.embed_tokens.weight"), "the weights lack the first layer or the table"),
    (lambda w: w.update({"model.layers.0.extra.weight": torch.zeros(2)}), "extra.weight has no place in GGUF's llama"),
    (lambda w: w.update({"model.embed_tokens.weight": torch.zeros(500, 64)}), "has 500 rows, vocab_size is 512"),
])  # fmt: skip
def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path: Path, change: Any, message: str):
    write_decoder(tmp_path)
    weights = load_file(tmp_path / SINGLE)
    change(weights)
    save_file(weights, tmp_path / SINGLE)
    with pytest.raises(ModelError, match=message):
        write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")


def test_an_unknown_float_type_is_refused(tmp_path: Path):
    write_decoder(tmp_path)
    with pytest.raises(UsageError, match="one of F32, F16, BF16, not 'F8'"):
        write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf", type="F8")


def test_weights_that_are_no_floats_are_refused(tmp_path: Path):
    write_decoder(tmp_path)
    save_file({n: t.to(torch.int8) for n, t in load_file(tmp_path / SINGLE).items()}, tmp_path / SINGLE)
    with pytest.raises(EdgepressError, match=r"is stored as I8; expected F32"):
        write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")


def test_a_hollow_file_has_the_length_of_a_whole_one_and_takes_no_room(tmp_path: Path):
    write_decoder(tmp_path)
    write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "whole.gguf")
    write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "hollow.gguf", hollow=True)
    whole, hollow = (tmp_path / name for name in ("whole.gguf", "hollow.gguf"))
    assert hollow.stat().st_size == whole.stat().st_size
    assert [t.name for t in gguf.GGUFReader(hollow).tensors] == [t.name for t in gguf.GGUFReader(whole).tensors]
    assert hollow.stat().st_blocks * 512 < whole.stat().st_size / 4


def test_a_damaged_tokenizer_config_is_one_line(tmp_path: Path):
    write_decoder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s', encoding="utf-8")
    with pytest.raises(ModelError, match=r"its tokenizer_config.json or chat template is damaged"):
        write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "model.gguf")
