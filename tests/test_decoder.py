"""A folder of a decoder is what transformers makes of it, or it is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgepress.compress.decoder import read_decoder
from edgepress.compress.hugging_face import DECODERS
from edgepress.compress.source import Task, read_source
from edgepress.export.formats import export
from edgepress.runtime.errors import DataError, EdgepressError, ModelError, UnsupportedError
from edgepress.runtime.session import load

from .tiny_decoders import docstrings, read_tiny, write_decoder

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny-llama"
    write_decoder(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A tiny Llama, free to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


def configure(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> list[Path]:
    read_decoder(folder, None).model.module.get_submodule("decoder").save_pretrained(folder, max_shard_size="80KB")  # pyright: ignore
    (folder / WEIGHTS).unlink()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def refused(folder: Path, kind: type[EdgepressError] = ModelError, texts: Path | None = None) -> str:
    with pytest.raises(kind) as caught:
        read_source(str(folder), texts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_kind_gives_the_logits_of_transformers(kind: str, tmp_path: Path):
    original = write_decoder(tmp_path / kind, kind)
    model = read_source(str(tmp_path / kind)).model
    ids = torch.randint(0, 500, (3, 70), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = original(input_ids=ids).logits
    assert torch.allclose(model(input_ids=ids)["logits"], wanted, atol=1e-4)
    assert not any(part.training for part in model.module.modules())
    assert model.module.get_submodule("decoder").config.model_type == kind  # pyright: ignore


def test_what_travels_beside_the_weights(folder: Path):
    model = read_decoder(folder, None).model
    assert set(model.assets) == {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"}
    assert (model.name, model.outputs) == ("tiny-llama", ("logits",))
    assert model.source["kind"] == "hugging-face"


def test_the_layers_of_gpt2_are_linear_as_everybody_elses(tmp_path: Path):
    write_decoder(tmp_path / "gpt2", "gpt2")
    module = read_decoder(tmp_path / "gpt2", None).model.module
    weight = module.get_parameter("decoder.transformer.h.0.attn.c_attn.weight")
    assert torch.equal(weight, load_file(tmp_path / "gpt2" / WEIGHTS)["transformer.h.0.attn.c_attn.weight"].T)
    assert type(module.get_submodule("decoder.transformer.h.0.attn.c_attn")) is torch.nn.Linear


def test_shards_are_read(folder: Path):
    whole = read_decoder(folder, None).model.module.state_dict()
    shard(folder)
    found = read_decoder(folder, None).model.module.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


def test_a_missing_and_an_extra_shard_are_told(folder: Path):
    first, *_ = shard(folder)
    shutil.copy(first, folder / "model-00009-of-00009.safetensors")
    assert "the shard model-00009-of-00009.safetensors, which nothing there names; remove what" in refused(folder)
    (folder / "model-00009-of-00009.safetensors").unlink()
    first.unlink()
    assert f"names the file {first.name!r}, which {folder} has not; copy the whole folder" in refused(folder)


def test_a_weight_that_is_not_finite_is_named(folder: Path):
    change(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][3].fill_(torch.nan))
    assert "the weight 'model.layers.1.mlp.up_proj.weight' holds a NaN or an infinity" in refused(folder)


def test_weights_that_are_missing_misshapen_or_left_are_told(saved: Path, folder: Path):
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda weights: weights.pop(name))
    assert f"1 weights are missing, as '{name}'" in refused(folder)
    shutil.copy(saved / WEIGHTS, folder / WEIGHTS)
    change(folder, lambda weights: weights.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(2, 2)}))
    assert "1 weights would be left out, as 'model.layers.7.mlp.up_proj.weight'" in refused(folder)
    shutil.copy(saved / WEIGHTS, folder / WEIGHTS)
    configure(folder, vocab_size=600)
    assert "weights have another shape" in refused(folder)


def test_a_tokenizer_with_more_tokens_than_the_table_is_refused(folder: Path):
    configure(folder, vocab_size=100)
    assert "tokens, the model's table holds 100; bring the two that belong together" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "mamba"}, "has the model_type 'mamba'; those that can be read: albert, bert, "),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "is a LlamaForSequenceClassification; expected a causal",
        ),
        ({"scale_attn_by_inverse_layer_idx": True}, "scales attention by the index of its layer"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(folder: Path, settings: dict[str, object], said: str):
    configure(folder, **settings)
    assert said in refused(folder, UnsupportedError)


def test_pickles_are_never_loaded(folder: Path):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "has no model.safetensors; pickles (.bin, .pt) are never loaded" in refused(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_tiny(tmp_path_factory.mktemp("task"), texts=30)


def test_text_is_cut_into_whole_windows_that_begin_as_the_tokenizer_begins(task: Task):
    batches = [*task.data.calibration, *task.data.training(0)]  # pyright: ignore[reportCallIssue]
    assert {batch["input_ids"].shape[1] for batch in batches} == {128}
    assert all((batch["input_ids"][:, 0] == 0).all() for batch in batches), "<s>"


def test_what_is_judged_was_never_trained_on(task: Task):
    judged: set[bytes] = set()

    def session(input_ids: np.ndarray) -> dict[str, np.ndarray]:
        judged.add(input_ids.tobytes())
        return {"logits": task.model(input_ids=torch.from_numpy(input_ids))["logits"].numpy()}

    assert task.data.score is not None
    assert task.data.score(session)["kl"] == 0  # pyright: ignore[reportArgumentType]
    for epoch in range(2):
        learned = [row for batch in task.data.training(epoch) for row in batch["input_ids"]]  # pyright: ignore
        assert not judged & {row[None].tobytes() for row in learned}
    assert len(judged) == len(learned) or len(judged) == 32  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_tokenizer_that_begins_with_nothing_gives_windows_of_text_alone(tmp_path: Path):
    task = read_tiny(tmp_path, "qwen2")
    ids = np.concatenate([batch["input_ids"].ravel() for batch in task.data.calibration])
    assert (ids > 3).all(), "a special token in plain text"


def test_windows_are_no_longer_than_the_model_has_positions(tmp_path: Path):
    task = read_tiny(tmp_path, max_position_embeddings=32)
    assert next(iter(task.data.calibration))["input_ids"].shape[1] == 32
    assert task.model.lengths == {"sequence": (32,)}


def test_a_text_that_is_too_short_or_no_text_is_told(folder: Path, tmp_path: Path):
    (tmp_path / "short.txt").write_text("A few words.", encoding="utf-8")
    said = refused(folder, DataError, tmp_path / "short.txt")
    assert "tokens in 0 different windows of 128; expected a text for at least 2 windows" in said
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xff")
    assert "cannot be read as text" in refused(folder, DataError, tmp_path / "binary.txt")


def test_the_onnx_exporter_takes_a_decoder_with_its_axes_free(task: Task, tmp_path: Path):
    session = load(export(task.model, "onnx", tmp_path / "out").path)
    ids = np.random.default_rng(0).integers(0, 500, (3, 50))
    wanted = task.model(input_ids=torch.from_numpy(ids))["logits"].numpy()
    assert np.abs(session(input_ids=ids)["logits"] - wanted).max() < 1e-4
    assert docstrings()
