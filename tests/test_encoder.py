"""An encoder computes what transformers computes, at any length, and texts judge what they did not calibrate."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.encoder import TextEmbedding, read_encoder, read_lines
from edgepress.compress.hugging_face import ENCODERS
from edgepress.export.formats import export
from edgepress.export.trace import trace
from edgepress.runtime import load
from edgepress.runtime.errors import DataError

from .tiny_encoders import WORDS, texts, write_encoder

SENTENCES = ("The quick brown fox.", "It jumps over the lazy dog, which sleeps on and on in the sun.", "Why?")


def mean_pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Each text alone: the mean over the states of its own tokens."""
    return torch.stack([state[seen.bool()].mean(0) for state, seen in zip(states, mask, strict=True)])


def batch(pad: int) -> dict[str, Tensor]:
    """Three texts of 9, 1 and 5 tokens, and what is padded."""
    ids = torch.full((3, 9), pad)
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, length in enumerate((9, 1, 5)):
        ids[row, :length] = torch.arange(6, 6 + length) + 10 * row
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ENCODERS)
def test_each_kind_of_encoder_is_what_transformers_computes_at_any_length(kind: str, tmp_path: Path):
    plain = write_encoder(tmp_path, kind)
    model = read_encoder(tmp_path, None).model
    inputs = batch(plain.config.pad_token_id)
    assert model.example["input_ids"].shape != inputs["input_ids"].shape
    with torch.no_grad():
        expected = mean_pooled(plain(**inputs).last_hidden_state, inputs["attention_mask"])
        traced = trace(model).module()(**inputs)
    for actual in (model(**inputs)["sentence_embedding"], traced):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_each_kind_of_encoder_ships_as_what_transformers_computes(kind: str, tmp_path: Path):
    plain = write_encoder(tmp_path / "tiny", kind)
    artifact = export(read_encoder(tmp_path / "tiny", None).model, "onnx", tmp_path / "artifact")
    inputs = batch(plain.config.pad_token_id)
    with torch.no_grad():
        expected = mean_pooled(plain(**inputs).last_hidden_state, inputs["attention_mask"])
    actual = load(artifact.path)(**{name: tensor.numpy() for name, tensor in inputs.items()})["sentence_embedding"]
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_classifier_gives_the_logits_of_transformers(kind: str, tmp_path: Path):
    plain = write_encoder(tmp_path, kind, classes=3)
    model = read_encoder(tmp_path, None).model
    assert json.loads(model.assets["labels.json"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    inputs = batch(plain.config.pad_token_id)
    with torch.no_grad():
        expected = plain(**inputs).logits
        torch.testing.assert_close(trace(model).module()(**inputs), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(**inputs)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_what_is_padded_changes_nothing(tmp_path: Path):
    write_encoder(tmp_path)
    model = read_encoder(tmp_path, None).model
    alone = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    padded = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in alone.items()}
    torch.testing.assert_close(model(**padded), model(**alone), rtol=1e-5, atol=1e-6)


class States(nn.Module):
    """An encoder that gives what it is told."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.last_hidden_state = states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> "States":
        return self


@given(rows=st.integers(1, 4), length=st.integers(1, 6), data=st.data())
def test_states_are_pooled_and_normalized_as_the_words_say(rows: int, length: int, data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    states = torch.from_numpy(np.random.default_rng(length).standard_normal((rows, length, 4)).astype(np.float32))
    mask = torch.tensor([[int(i < n) for i in range(length)] for n in lengths])
    pooled = {"mean": mean_pooled(states, mask), "cls": states[:, 0]}
    for pooling, expected in pooled.items():
        module = TextEmbedding(States(states), pooling=pooling, normalize=False)
        torch.testing.assert_close(module(mask, mask), expected)
        module = TextEmbedding(States(states), pooling=pooling, normalize=True)
        torch.testing.assert_close(module(mask, mask), expected / expected.norm(dim=1, keepdim=True))


def test_minilm_gives_the_embeddings_of_transformers_from_the_file_that_ships(minilm: Path, tmp_path: Path):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm, local_files_only=True)
    plain = AutoModel.from_pretrained(minilm, local_files_only=True).eval()
    tokens = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = plain(**tokens).last_hidden_state
    expected = nn.functional.normalize(mean_pooled(states, tokens["attention_mask"]), dim=1).numpy()

    model = read_encoder(minilm, None).model
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    np.testing.assert_allclose(model(**inputs)["sentence_embedding"].numpy(), expected, atol=1e-5)

    artifact = export(model, "onnx", tmp_path / "minilm")
    session = load(artifact.path)
    assert [str(port) for port in artifact.inputs] == [
        "input_ids int64[batch, sequence]", "attention_mask int64[batch, sequence]"
    ]  # fmt: skip
    assert [str(port) for port in artifact.outputs] == ["sentence_embedding float32[batch, 384]"]
    shipped = session(**{name: tensor.numpy() for name, tensor in inputs.items()})["sentence_embedding"]
    np.testing.assert_allclose(shipped, expected, atol=1e-5)

    from tokenizers import Tokenizer

    encodings = Tokenizer.from_file(str(artifact.path / "tokenizer.json")).encode_batch(list(SENTENCES))
    assert [encoding.ids for encoding in encodings] == tokens["input_ids"].tolist()
    assert session.selftest().passed


def test_a_model_is_named_as_its_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "my encoder (v2)"
    write_encoder(folder)
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder)
    for path in (folder, Path(), Path(f"{folder}/"), Path("..") / folder.name, Path("inside") / ".."):
        assert read_encoder(path, None).model.name == "my encoder (v2)"
    (tmp_path / "minilm").symlink_to(folder, target_is_directory=True)
    assert read_encoder(tmp_path / "minilm", None).model.name == "minilm"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    write_encoder(folder)
    return folder


def lines(folder: Path, content: Sequence[str]) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(content), encoding="utf-8")
    return path


def words(batches: object) -> list[str]:
    """The texts of batches, read back from their ids."""
    assert isinstance(batches, list)
    rows = [(ids, mask) for b in batches for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)]
    return [" ".join(WORDS[i - 5] for i in ids[mask > 0][1:-1]) for ids, mask in rows]


class Session:
    """Runs the model, and remembers the texts that it was judged by."""

    def __init__(self, model: Callable[..., dict[str, Tensor]]) -> None:
        self.model, self.seen = model, list[str]()

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        self.seen += words([inputs])
        return {k: v.numpy() for k, v in self.model(**{n: torch.from_numpy(a) for n, a in inputs.items()}).items()}


@pytest.mark.parametrize("count", [2, 3, 40])
def test_every_other_line_judges_and_the_rest_calibrates(tiny: Path, tmp_path: Path, count: int):
    task = read_encoder(tiny, lines(tmp_path, texts(count)))
    session = Session(task.model)
    assert task.data.score is not None
    figures = task.data.score(session)
    assert figures["cosine"] == pytest.approx(1)
    assert session.seen == texts(count)[1::2]
    assert words(task.data.calibration) == sorted(texts(count)[0::2], key=len)
    assert callable(task.data.training)
    assert sorted(words(list(task.data.training(0)))) == sorted(texts(count)[0::2])
    assert task.data.validation is None


def test_no_more_is_judged_and_calibrated_than_helps(tiny: Path, tmp_path: Path):
    many = [f"{a} {b}" for a in WORDS[:30] for b in WORDS[:30]]
    task = read_encoder(tiny, lines(tmp_path, many))
    judged, watched = Session(task.model), Session(task.model)
    assert task.data.score is not None
    assert task.data.validation is not None
    task.data.score(judged)
    task.data.validation(watched)
    assert judged.seen == many[1:512:2]
    assert watched.seen == many[513:768:2]
    assert words(task.data.calibration) == sorted(many[0:256:2], key=len)
    assert callable(task.data.training)
    epochs = [words(list(task.data.training(epoch))) for epoch in (0, 1, 0)]
    assert sorted(epochs[0]) == sorted(set(many) - set(judged.seen) - set(watched.seen))
    assert epochs[0] == epochs[2] != epochs[1]


def test_the_first_two_lines_become_the_example(tiny: Path, tmp_path: Path):
    example = read_encoder(tiny, lines(tmp_path, texts(5))).model.example
    assert words([{name: tensor.numpy() for name, tensor in example.items()}]) == texts(2)


def test_a_line_that_comes_again_is_one_sample(tmp_path: Path):
    path = lines(tmp_path, ["one", "", "  two ", "one", "\t", "three", "two"])
    assert read_lines(path) == ["one", "two", "three"]


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path):
    (tmp_path / "texts.txt").write_bytes("\ufefföne\r\ntwo\r\n".encode())
    assert read_lines(tmp_path / "texts.txt") == ["öne", "two"]


@pytest.mark.parametrize("content", ["", "\n \n\t\n", "one line", "the same\nthe same\n"])
def test_texts_that_are_too_few_to_judge_are_refused(tmp_path: Path, content: str):
    with pytest.raises(DataError, match=r"texts\.txt has [01] different lines with text; expected a sample a line"):
        read_lines(lines(tmp_path, [content]))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", "gr\xfc\xdfe\n".encode("latin-1")])
def test_texts_in_another_encoding_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as text: .*; save it as UTF-8") as caught:
        read_lines(tmp_path / "texts.txt")
    assert "\n" not in str(caught.value)


def test_texts_that_are_not_there_are_told(tmp_path: Path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read as text"):
            read_lines(path)


def test_weights_that_are_no_numbers_are_told_before_anything_is_compressed(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    write_encoder(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: value * np.nan for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match="original model gives NaN or infinity"):
        read_encoder(tmp_path, lines(tmp_path, texts(4)))
