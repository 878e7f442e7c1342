"""A Hugging Face folder is what transformers makes of it, to the last weight, or it is refused in one line."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgepress.compress.hugging_face import read_checkpoint
from edgepress.runtime.errors import EdgepressError, ModelError, UnsupportedError

from .tiny_encoders import LONGEST, WORDS, tokenizer, write_encoder

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny-bert"
    write_encoder(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A tiny BERT, free to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-bert"))


def configure(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def shard(folder: Path) -> list[Path]:
    """Save the weights anew, in several files; returns the index and its shards."""
    read_checkpoint(folder).module.save_pretrained(folder, max_shard_size="8KB")
    (folder / "model.safetensors").unlink()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return [folder / INDEX, *shards]


def change_weights(folder: Path, change: Callable[[str], str | None]) -> None:
    """Rename weights, or drop those for which `change` returns None."""
    path = folder / "model.safetensors"
    renamed = {change(name): value for name, value in load_file(path).items()}
    save_file({name: value for name, value in renamed.items() if name}, path, metadata={"format": "pt"})


def refused(folder: Path, kind: type[EdgepressError] = ModelError) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(kind) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_weight_is_the_saved_one(folder: Path):
    found = read_checkpoint(folder)
    assert not any(part.training for part in found.module.modules())
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == found.module.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in found.module.state_dict().items())
    assert found.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (found.labels, found.pooling, found.normalize) == ((), "mean", False)


def test_half_precision_is_read_as_single(folder: Path):
    weights = load_file(folder / "model.safetensors")
    save_file({n: w.half() for n, w in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    assert {weight.dtype for weight in read_checkpoint(folder).module.parameters()} == {torch.float32}


def test_a_classifier_names_its_classes(tmp_path: Path):
    write_encoder(tmp_path, classes=3, id2label={0: "good", 1: "bad", 2: "neither"})
    assert read_checkpoint(tmp_path).labels == ("good", "bad", "neither")


def test_an_encoder_inside_a_masked_language_model_is_read(folder: Path):
    configure(folder, architectures=["BertForMaskedLM"])
    change_weights(folder, lambda name: None if name.startswith("pooler") else f"bert.{name}")
    path = folder / "model.safetensors"
    head = {"cls.predictions.bias": torch.zeros(66), "cls.predictions.transform.dense.bias": torch.zeros(16)}
    save_file(load_file(path) | head, path, metadata={"format": "pt"})
    weight = read_checkpoint(folder).module.state_dict()["encoder.layer.1.output.dense.weight"]
    assert torch.equal(weight, load_file(path)["bert.encoder.layer.1.output.dense.weight"])


def test_shards_are_read_and_each_of_them_counts_for_the_hash(folder: Path):
    whole = read_checkpoint(folder).module.state_dict()
    files = shard(folder)
    found = read_checkpoint(folder)
    assert all(torch.equal(value, whole[name]) for name, value in found.module.state_dict().items())
    assert found.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    weights = load_file(files[-1])
    save_file({name: value + 1 for name, value in weights.items()}, files[-1], metadata={"format": "pt"})
    assert read_checkpoint(folder).sha256 != found.sha256


def test_a_shard_that_is_missing_is_named(folder: Path):
    shard(folder)[2].unlink()
    assert f"{folder / INDEX} names the file 'model-00002-of-" in refused(folder)


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/passwd", "pytorch_model.bin"])
def test_a_shard_that_lies_elsewhere_or_is_a_pickle_is_refused(folder: Path, name: str):
    index = shard(folder)[0]
    weights = json.loads(index.read_text(encoding="utf-8"))
    weights["weight_map"]["embeddings.LayerNorm.bias"] = name
    index.write_text(json.dumps(weights), encoding="utf-8")
    for place in (folder.parent / "weights.safetensors", folder / "pytorch_model.bin"):
        save_file({"embeddings.LayerNorm.bias": torch.zeros(16)}, place)
    assert f"names the file {name!r}" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert f"{folder} has no {name}" in refused(folder)


def test_pickled_weights_are_never_loaded(folder: Path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "pickles (.bin, .pt) are never loaded: convert them" in refused(folder)
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    assert f"{folder} cannot be read: Error while deserializing header" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe\0", b"null", b"{}{}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", INDEX])
def test_a_json_file_that_is_damaged_or_something_else_is_named(folder: Path, name: str, content: bytes):
    if name == INDEX:
        shard(folder)
    (folder / name).write_bytes(content)
    assert f"{folder / name} cannot be read: " in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_that_are_cut_short_are_refused(folder: Path, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read: Error while deserializing header" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 3}, "16 weights are missing, as 'encoder.layer.2."),
        ({"num_hidden_layers": 1}, "16 weights would be left out, as 'encoder.layer.1."),
        ({"vocab_size": 70}, "1 weights have another shape, as 'embeddings.word_embeddings.weight'"),
        ({"architectures": ["BertForSequenceClassification"]}, "2 weights are missing, as 'classifier.bias'"),
        ({"hidden_size": "sixteen"}, "config.json cannot be read: Validation error for field 'hidden_size'"),
        ({"num_attention_heads": 3}, "is not a multiple of the number of attention heads (3)"),
        ({"hidden_act": "frob"}, "KeyError 'frob'"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(folder: Path, settings: dict[str, object], said: str):
    configure(folder, **settings)
    assert said in refused(folder)


def test_weights_under_other_names_are_not_replaced_by_random_ones(folder: Path):
    change_weights(folder, lambda name: f"model.{name}")
    assert "weights are missing" in refused(folder)


def test_a_pooler_that_nobody_reads_may_be_missing(folder: Path):
    change_weights(folder, lambda name: None if name.startswith("pooler") else name)
    assert read_checkpoint(folder).module is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "t5"}, "has the model_type 't5'; those that can be read: albert, bert, "),
        ({"model_type": "frobnicator"}, "has the model_type 'frobnicator'"),
        ({"model_type": None}, "has the model_type None"),
        ({"architectures": ["BertForQuestionAnswering"]}, "is a BertForQuestionAnswering; expected a sentence encoder"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(folder: Path, settings: dict[str, object], said: str):
    configure(folder, **settings)
    assert said in refused(folder, UnsupportedError)


def test_a_tokenizer_of_another_model_is_refused(folder: Path):
    made = tokenizer(0)
    made.add_tokens(["two", "more"])
    made.save(str(folder / "tokenizer.json"))
    assert "tokenizer.json has 67 tokens, the model's table holds 66" in refused(folder)


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("bert", LONGEST), ("distilbert", LONGEST), ("electra", LONGEST), ("albert", LONGEST),
     ("roberta", LONGEST - 2), ("camembert", LONGEST - 2), ("xlm-roberta", LONGEST - 2), ("mpnet", LONGEST - 2)],
)  # fmt: skip
def test_a_text_is_cut_to_the_positions_that_the_model_has(kind: str, longest: int, tmp_path: Path):
    module = write_encoder(tmp_path, kind)
    encoding = read_checkpoint(tmp_path).tokenizer.encode(" ".join(WORDS * 2))
    assert len(encoding.ids) == longest
    assert torch.isfinite(module(torch.tensor([encoding.ids])).last_hidden_state).all()
    with pytest.raises((IndexError, RuntimeError)):  # one more would be too many
        module(torch.tensor([[*encoding.ids, 5]]))


def test_a_text_is_cut_to_what_sentence_transformers_says(folder: Path):
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}', encoding="utf-8")
    made = read_checkpoint(folder).tokenizer
    assert [len(e.ids) for e in made.encode_batch(["w1", " ".join(WORDS)])] == [8, 8]
    assert made.encode_batch(["w1", "w1 w2"])[0].ids == [2, 6, 3, 0]
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 1000}', encoding="utf-8")
    assert len(read_checkpoint(folder).tokenizer.encode(" ".join(WORDS)).ids) == LONGEST


@pytest.mark.parametrize("content", ["[]", "{", '{"max_seq_length": "long"}', '{"max_seq_length": -5}'])
def test_a_length_that_is_none_is_refused(folder: Path, content: str):
    (folder / "sentence_bert_config.json").write_text(content, encoding="utf-8")
    assert "sentence_bert_config.json cannot be read: " in refused(folder)


def pool(folder: Path, settings: object, modules: object = None) -> None:
    """Write what sentence-transformers writes: the modules, and the settings of the pooling one."""
    kinds = ["Transformer", "Pooling"] if modules is None else modules
    if isinstance(kinds, list):
        kinds = [
            {"idx": i, "path": f"{i}_{k}", "type": f"sentence_transformers.models.{k}"} for i, k in enumerate(kinds)
        ]
    (folder / "modules.json").write_text(json.dumps(kinds), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
@pytest.mark.parametrize("modules", [["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]])
def test_pooling_is_what_sentence_transformers_wrote_down(
    folder: Path, settings: object, mode: str, modules: list[str]
):
    pool(folder, settings, modules)
    found = read_checkpoint(folder)
    assert (found.pooling, found.normalize) == (mode, "Normalize" in modules)


@pytest.mark.parametrize(
    "settings",
    [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
     {"pooling_mode": "lasttoken"}],
)  # fmt: skip
def test_another_way_to_pool_is_refused(folder: Path, settings: object):
    pool(folder, settings)
    assert "mean and cls can be read" in refused(folder, UnsupportedError)


def test_another_module_is_refused(folder: Path):
    pool(folder, {}, ["Transformer", "Pooling", "Dense"])
    assert "has a Dense module, which cannot be read yet" in refused(folder, UnsupportedError)


@pytest.mark.parametrize("modules", [{"a": 1}, "text", 3])
def test_modules_that_are_damaged_are_refused(folder: Path, modules: object):
    pool(folder, {}, modules)
    assert "modules.json cannot be read: " in refused(folder)
