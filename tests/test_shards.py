"""A Hugging Face folder is read one tensor at a time, and one that is not whole is refused by name."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgepress.export.shards import INDEX, SINGLE, read_shards, weights_sha256
from edgepress.runtime.errors import ModelError

from .tiny_decoders import write_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("llama")
    write_decoder(found)
    return found


@pytest.fixture
def sharded(folder: Path, tmp_path: Path) -> Path:
    """The same weights in two files and an index, as transformers saves what is large."""
    whole = load_file(folder / SINGLE)
    names = sorted(whole)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: whole[name] for name in held}, tmp_path / file)
    weights = {name: file for file, held in parts.items() for name in held}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weights}), encoding="utf-8")
    shutil.copy(folder / "config.json", tmp_path)
    return tmp_path


def test_shards_hold_what_one_file_holds(folder: Path, sharded: Path):
    whole, parts = read_shards(folder), read_shards(sharded)
    assert dict(parts.shapes) == dict(whole.shapes)
    for name in whole.shapes:
        assert torch.equal(parts.read(name), whole.read(name))


def test_bfloat16_is_read_as_it_is_stored(tmp_path: Path):
    write_decoder(tmp_path)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / SINGLE).items()}
    save_file(weights, tmp_path / SINGLE)
    assert read_shards(tmp_path).read("model.norm.weight").dtype == torch.bfloat16


def test_a_missing_shard_is_named(sharded: Path):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names the file 'model-00002-of-00002.safetensors', which .* has not"):
        read_shards(sharded)


def test_a_shard_too_many_is_named(sharded: Path):
    shutil.copy(sharded / "model-00002-of-00002.safetensors", sharded / "model-00003-of-00003.safetensors")
    with pytest.raises(ModelError, match=r"the shard model-00003-of-00003.safetensors, which nothing there names"):
        read_shards(sharded)


def test_an_index_that_promises_a_tensor_too_many_is_refused(sharded: Path):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"layers.9.mlp.up_proj.weight is in model-00001-of-00002.safetensors"):
        read_shards(sharded)


def test_a_tensor_that_the_index_does_not_name_is_refused(sharded: Path):
    index = json.loads((sharded / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"holds model.norm.weight, which .* does not name"):
        read_shards(sharded)


def test_an_index_without_a_map_is_refused(sharded: Path):
    (sharded / INDEX).write_text("{}")
    with pytest.raises(ModelError, match="has no weight_map"):
        read_shards(sharded)


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense", b"\xff" * 64])
def test_damaged_weights_are_one_line(folder: Path, tmp_path: Path, content: bytes):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / SINGLE).write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        read_shards(tmp_path / "copy")


def test_a_folder_of_pickles_is_refused(folder: Path, tmp_path: Path):
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pickles .* are never loaded"):
        read_shards(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "\x00"])
def test_a_damaged_config_is_one_line(folder: Path, tmp_path: Path, content: str):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config.json cannot be read: "):
        read_shards(tmp_path / "copy")


def test_weights_that_are_not_finite_are_named(tmp_path: Path):
    write_decoder(tmp_path)
    weights = load_file(tmp_path / SINGLE)
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / SINGLE)
    with pytest.raises(ModelError, match=r"NaN or infinity in model.norm.weight"):
        read_shards(tmp_path).read("model.norm.weight")


def test_the_digest_is_over_every_shard(folder: Path, sharded: Path):
    whole = hashlib.sha256((folder / SINGLE).read_bytes()).hexdigest()
    assert weights_sha256(folder) == whole
    before = weights_sha256(sharded)
    second = sharded / "model-00002-of-00002.safetensors"
    weights = {name: tensor + 1 for name, tensor in load_file(second).items()}
    save_file(weights, second)
    assert weights_sha256(sharded) != before
