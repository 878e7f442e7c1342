"""llama.cpp through ctypes: tokens, logits, reasons for failures, and memory that is given back."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgepress.runtime.errors import EngineError
from edgepress.runtime.llama import CACHES, CHUNK, Context, Model

from .tiny_gguf import write

TEXTS = ["", " ", "Hello there.", "don't  stop\n\n\tnow", "naïve café 你好 😀 é", "def f(x):\n    return x[0] + 17",
         "</s><s>", "<|im_start|>user\nhi<|im_end|>", "a" * 300]  # fmt: skip


@pytest.fixture(scope="module")
def model(llama) -> Model:
    return Model(llama[0])


def test_texts_have_the_tokens_that_the_source_gives_them(model: Model, llama):
    source = Tokenizer.from_file(str(llama[0].parent / "source" / "tokenizer.json"))
    for text in TEXTS:
        assert model.tokens(text) == source.encode(text).ids
        assert model.tokens(text, special=False) == source.encode(text, add_special_tokens=False).ids


def test_tokens_have_the_text_that_they_came_from(model: Model):
    for text in TEXTS:
        tokens = model.tokens(text, special=False)
        assert model.text(tokens, special=True) == text
        marked = "<" in text
        assert marked or b"".join(map(model.piece, tokens)).decode() == text


def test_a_model_knows_its_words(model: Model):
    assert (model.words, model.width, model.trained_context) == (512, 128, 256)
    assert [model.word(token) for token in (-1, 0, 1)] == ["", "<s>", "</s>"]
    assert [token for token in range(512) if model.ends(token)] == [1, 3]


def test_logits_do_not_depend_on_how_the_tokens_are_handed_over(model: Model):
    tokens = np.random.default_rng(0).integers(0, 512, 200).astype(np.int32)
    whole = Context(model, 256, threads=1, cache="f32", every=True)
    logits = whole.read_all(tokens)
    assert logits.shape == (200, 512)
    assert whole.used == 200
    parts = Context(model, 256, threads=1, cache="f32")
    for first in (0, 1, 2, 50):
        parts.clear()
        if first:
            assert np.allclose(parts.read(tokens[:first]), logits[first - 1], atol=1e-4)
        assert np.allclose(parts.read(tokens[first:]), logits[-1], atol=1e-4)
    assert len(tokens) > CHUNK


@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_computes_much_the_same(model: Model, cache: str):
    tokens = np.arange(40, dtype=np.int32)
    exact = Context(model, 64, threads=1, cache="f32").read(tokens)
    found = Context(model, 64, threads=1, cache=cache).read(tokens)
    assert np.abs(found - exact).max() < {"f32": 1e-6, "f16": 2e-2, "q8_0": 0.2, "q4_0": 1.5}[cache]


def test_a_failure_tells_the_reason_of_llama_cpp(model: Model, tmp_path: Path, capfd: pytest.CaptureFixture):
    about = {"unheard.block_count": 1, "unheard.context_length": 8, "unheard.embedding_length": 8}
    path = write(tmp_path / "m.gguf", "unheard", about, {"a": np.ones((2, 4), np.float32)})
    with pytest.raises(EngineError, match=r"llama\.cpp cannot open .*m\.gguf: unknown model architecture: 'unheard'"):
        Model(path)
    context = Context(model, 64, threads=1)
    with pytest.raises(EngineError, match=r"llama\.cpp stopped in .*: .*") as error:
        context.read(np.array([600], np.int32))
    assert "\n" not in str(error.value)
    assert "".join(capfd.readouterr()) == ""


def test_memory_and_files_are_given_back(llama):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def once() -> None:
        context = Context(Model(llama[0]), 256, threads=1)
        context.read(np.arange(9, dtype=np.int32))

    for _ in range(3):
        once()
    gc.collect()
    files, before = open_files(), resident()
    for _ in range(20):
        once()
    gc.collect()
    assert open_files() == files
    assert resident() - before < 8e6


def test_without_the_library_the_line_that_installs_it_is_said(llama):
    code = (
        "import sys; sys.modules['llama_cpp'] = None\n"
        "from edgepress.runtime import EdgepressError, load\n"
        f"try: load({str(llama[0])!r})\n"
        "except EdgepressError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "llama-cpp-python is not installed; it comes with: pip install 'edgepress[gguf]'\n"
