"""What was cut is counted in the config: a folder saved with it is read again to the same model."""

import json
from pathlib import Path

import pytest
import torch

from edgepress.compress.config_sizes import with_config
from edgepress.compress.decoder import read_decoder
from edgepress.compress.hugging_face import DECODERS
from edgepress.compress.structured import StructuredPrune
from edgepress.runtime.errors import UnsupportedError

from .tiny_decoders import read_tiny
from .tiny_encoders import read_tiny as read_tiny_encoder

WITH_HEADS = [kind for kind in DECODERS if kind != "gpt2"]


@pytest.mark.parametrize("kind", WITH_HEADS)
def test_a_decoder_that_was_cut_is_read_again_to_the_last_bit(kind: str, tmp_path: Path):
    task = read_tiny(tmp_path, kind, texts=4, num_hidden_layers=3)
    model = StructuredPrune(neurons=0.5, heads=0.5, layers=0.4, refit=False)(task.model, task.data)
    config = json.loads(model.assets["config.json"])
    sizes = ("num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [config[name] for name in sizes] == [2, 64, 2, 1, 16]
    assert len(config.get("layer_types") or [0, 0]) == 2
    folder = tmp_path / "cut"
    model.module.get_submodule("decoder").save_pretrained(folder)  # pyright: ignore
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes(model.assets[name])
    again = read_decoder(folder, None).model
    assert torch.equal(again(**task.model.example)["logits"], model(**task.model.example)["logits"])


def test_gpt2_counts_neurons_and_layers_under_its_own_names(tmp_path: Path):
    task = read_tiny(tmp_path, "gpt2", texts=4)
    model = StructuredPrune(neurons=0.5, layers=0.5, refit=False)(task.model, task.data)
    config = json.loads(model.assets["config.json"])
    assert (config["n_layer"], config["n_inner"]) == (1, 128)


def test_the_layer_types_and_places_in_the_cache_are_those_of_the_layers_that_stay(tmp_path: Path):
    task = read_tiny(tmp_path, "gemma2", texts=4, num_hidden_layers=4)
    model = StructuredPrune(layers_kept=(0, 3))(task.model, task.data)
    decoder = model.module.get_submodule("decoder")
    assert decoder.config.layer_types == ["sliding_attention", "full_attention"]  # pyright: ignore
    assert [layer.self_attn.layer_idx for layer in decoder.model.layers] == [0, 1]  # pyright: ignore
    assert len(task.model.module.get_submodule("decoder").config.layer_types) == 4, "the model at hand has changed"  # pyright: ignore


def test_layers_of_different_sizes_and_configs_that_nobody_reads_again_are_refused(tmp_path: Path):
    task = read_tiny(tmp_path, texts=4)
    with pytest.raises(UnsupportedError, match="layers would have intermediate_size = 64, 128, and the model's config"):
        StructuredPrune(ratios=("*.layers.0.mlp.*=0.5",))(task.model, task.data)
    odd = read_tiny(tmp_path / "odd", texts=4, num_attention_heads=4, num_key_value_heads=4)
    with pytest.raises(UnsupportedError, match=r"the config would not be read again: .*; cut another share"):
        StructuredPrune(heads=0.25)(odd.model, odd.data)


def test_a_model_without_such_a_config_is_left_as_it_is(tmp_path: Path):
    task = read_tiny_encoder(tmp_path)
    assert with_config(task.model) is task.model
