"""llama.cpp splits text as the tokenizer that was written does; one that it would not follow is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgepress.export.gguf_tokenizer import read_vocabulary
from edgepress.export.gguf_write import write_gguf
from edgepress.export.shards import read_shards
from edgepress.runtime import load
from edgepress.runtime.errors import ModelError, UnsupportedError
from edgepress.runtime.language import LanguageModel

from .tiny_decoders import trained, write_decoder

TEXTS = [
    "",
    "Hello there, wörld!  How's it going?  We'RE fine; I'd say 'twas 12345678.9",
    "def f(x: int) -> str:\n\treturn f'{x!r}' * 2  # why?\n\n\n    pass\r\n",
    "🚀 (normal) 😶‍🌫️ 👩🏽‍💻 ✅ 🦙🦙",
    "我想在apple工作1314151天～ カタカナ 한국어 กำลัง កាន់តែពិសេស",
    "é à ñ ỏ̷ Z͑ͫ̓ä́ (combining marks)",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n</s>",
    "  leading, trailing  \t\t and \n \n\n mixed \u00a0 \u2003 spaces   ",
    "нещо на Български \u200f\u202eعربى\u202c ԱԲԳ \x00\x7f �",
]
KINDS = {"llama": "llama-bpe", "qwen2": "qwen2", "gpt2": "gpt-2", "mistral": "default", "gemma": "default"}


class Pair:
    """A tokenizer, and llama.cpp with what was written of it."""

    def __init__(self, folder: Path) -> None:
        self.coder = Tokenizer.from_file(str(folder / "tokenizer.json"))
        session = load(folder / "model.gguf", threads=1)
        assert isinstance(session, LanguageModel)
        self.session = session

    def __call__(self, text: str) -> tuple[list[int], list[int]]:
        return self.coder.encode(text).ids, self.session.tokenize(text)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    write_decoder(folder, request.param)
    write_gguf(read_shards(folder), folder, folder / "model.gguf")
    return Pair(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_tokenizes_alike(pair: Pair, text: str):
    wanted, found = pair(text)
    assert found == wanted


@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_llama_cpp_tokenizes_whatever_text_alike(pair: Pair, text: str):
    wanted, found = pair(text)
    assert found == wanted


@pytest.mark.parametrize(("kind", "pre"), KINDS.items())
def test_the_pre_tokenizer_is_named_by_what_it_splits_at(tmp_path: Path, kind: str, pre: str):
    write_decoder(tmp_path, kind)
    assert read_vocabulary(tmp_path, 512).pre == pre


def test_rows_without_a_token_are_filled_up(tmp_path: Path):
    trained("qwen2").save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path, 520)
    assert vocabulary.tokens[512:] == tuple(f"[PAD{i}]" for i in range(512, 520))
    assert set(vocabulary.kinds[512:]) == {5}


def changed(kind: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    raw = json.loads(trained(kind).to_str())
    change(raw)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return folder


def no_merge(raw: dict[str, Any]) -> None:
    raw["model"]["merges"] = raw["model"]["merges"][:50]


def one_merge_less(raw: dict[str, Any]) -> None:
    merges = raw["model"]["merges"]
    double = next(i for i, (a, b) in enumerate(merges) if sum(x + y == a + b for x, y in merges) > 1)
    del merges[double]


def splits(raw: dict[str, Any]) -> None:
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\s+"


@pytest.mark.parametrize(("kind", "change", "message"), [
    ("llama-bpe", splits, r"the pre-tokenizer \\w\+\|\\s\+ has no name in llama.cpp"),
    ("llama-bpe", no_merge, r"no merges lead to the token .*, and llama.cpp's llama-bpe treats such others"),
    ("llama-bpe", lambda raw: raw.update(pre_tokenizer=None), "the pre-tokenizer none has no name"),
    ("llama-bpe", lambda raw: raw.update(normalizer={"type": "Lowercase"}), "the normalizer Lowercase"),
    ("spm", one_merge_less, r"does not merge '.*' and '.*' into '.*', llama.cpp would"),
    ("spm", lambda raw: raw.update(normalizer=None), "does not write spaces as ▁"),
    ("spm", lambda raw: raw.update(normalizer={"type": "NFKC"}), "the normalizer NFKC has no counterpart"),
    ("spm", lambda raw: raw.update(pre_tokenizer={"type": "Whitespace"}), "the pre-tokenizer Whitespace has no"),
])  # fmt: skip
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(
    tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], object], message: str
):
    with pytest.raises(UnsupportedError, match=message):
        read_vocabulary(changed(kind, tmp_path, change), 512)


def test_a_unigram_tokenizer_is_refused(tmp_path: Path):
    from tokenizers import models

    Tokenizer(models.Unigram([("a", -1.0)])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedError, match="is a Unigram tokenizer; BPE and WordPiece"):
        read_vocabulary(tmp_path, 512)


def test_more_tokens_than_rows_are_refused(tmp_path: Path):
    trained("qwen2").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has the token 511, the model's table 500 rows"):
        read_vocabulary(tmp_path, 500)


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, content: str):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer.json cannot be read"):
        read_vocabulary(tmp_path, 512)
