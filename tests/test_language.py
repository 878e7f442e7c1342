"""What a language model offers: text that continues, answers and embeds, and what happens where it does not fit."""

import gc
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.runtime import load
from edgepress.runtime.errors import EngineError, UsageError
from edgepress.runtime.language import LanguageModel, load_language
from edgepress.runtime.llama import CACHES

from .tiny_decoders import CHAT
from .tiny_gguf import write_llama

PROMPT = "The function returns a list of"
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def model(llama) -> LanguageModel:
    return load_language(llama[0], threads=1, verify=False)


@pytest.fixture(scope="module")
def encoder(minilm_gguf: Path) -> LanguageModel:
    return load_language(minilm_gguf, threads=1, verify=False)


def test_a_gguf_file_loads_as_a_language_model(llama, linear: Path):
    assert isinstance(load(llama[0], threads=1), LanguageModel)
    with pytest.raises(UsageError, match="is in the format onnx; expected a language model: a GGUF file"):
        load_language(linear)


def test_greedy_text_is_that_of_transformers(llama):
    exact = load_language(llama[0], threads=1, cache="f32", verify=False)
    ids = exact.tokenize(PROMPT)
    with torch.no_grad():
        whole = llama[1].generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=1)[0]
    expected = exact.detokenize([token for token in whole[len(ids) :].tolist() if token != 1])
    assert "".join(exact.generate(PROMPT, max_tokens=40)) == expected


def test_the_same_settings_give_the_same_text(model: LanguageModel):
    for settings in (
        {},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 2.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01},
    ):
        assert list(model.generate(PROMPT, max_tokens=20, **settings)) == list(
            model.generate(PROMPT, max_tokens=20, **settings)
        )
    texts = {"".join(model.generate(PROMPT, max_tokens=20, temperature=1.0, seed=seed)) for seed in range(4)}
    assert len(texts) == 4


def test_pieces_never_hold_half_a_character(model: LanguageModel):
    for seed in range(8):
        pieces = list(model.generate("naïve 你好", max_tokens=30, temperature=3.0, seed=seed))
        assert all(pieces)
        assert all(piece.encode("utf-8").decode("utf-8") == piece for piece in pieces)


def test_text_comes_as_it_is_computed(model: LanguageModel):
    stream = model.generate(PROMPT, max_tokens=200)
    first = next(stream)
    assert first
    assert "".join(model.generate(PROMPT, max_tokens=200)).startswith(first)


def test_text_ends_before_a_stop_string(model: LanguageModel):
    whole = "".join(model.generate(PROMPT, max_tokens=30))
    stop = whole[8:13]
    assert "".join(model.generate(PROMPT, max_tokens=30, stop=[stop, "never that"])) == whole[: whole.index(stop)]
    assert "".join(model.generate(PROMPT, max_tokens=30, stop=stop)) == whole[: whole.index(stop)]


def test_a_schema_is_kept(model: LanguageModel):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "count": {"enum": [1, 2, 3]}},
        "required": ["name", "count"],
    }
    for seed in range(4):
        text = "".join(model.generate(PROMPT, max_tokens=120, temperature=1.0, seed=seed, schema=schema))
        found = json.loads(text)
        assert set(found) == {"name", "count"}
        assert found["count"] in (1, 2, 3)


def test_a_grammar_is_kept(model: LanguageModel):
    assert "".join(model.generate(PROMPT, max_tokens=9, grammar='root ::= "yes" | "no"')) in ("yes", "no")


def test_a_conversation_is_written_with_the_files_template(model: LanguageModel):
    import jinja2

    text = jinja2.Environment().from_string(CHAT).render(messages=HELLO, add_generation_prompt=True)
    assert list(model.chat(HELLO, max_tokens=12)) == list(model.generate(text, max_tokens=12))
    assert model.chats


def test_a_template_that_writes_the_begin_of_the_text_does_not_get_another(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    source = llama[0].parent / "source"
    with_bos = write_llama(
        tmp_path / "m.gguf", source, weights, tokenizer__chat_template="{{ bos_token }}{{ messages[0].content }}"
    )
    model = load_language(with_bos, threads=1, verify=False)
    assert list(model.chat(HELLO, max_tokens=8)) == list(model.generate("Hello!", max_tokens=8))


def test_a_file_without_a_template_does_not_chat(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    path = write_llama(tmp_path / "m.gguf", llama[0].parent / "source", weights, tokenizer__chat_template=None)
    model = load_language(path, threads=1, verify=False)
    assert not model.chats
    with pytest.raises(UsageError, match=r"m\.gguf has no chat template; use generate"):
        model.chat(HELLO)


def test_a_file_without_a_tokenizer_takes_ids_only(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    keys = ("pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token")
    left_out = {f"tokenizer__ggml__{key}": None for key in keys}
    path = write_llama(
        tmp_path / "m.gguf", llama[0].parent / "source", weights,
        tokenizer__ggml__model="none", llama__vocab_size=512, **left_out,
    )  # fmt: skip
    model = load_language(path, threads=1)
    assert model(input_ids=np.array([[5, 6]]))["logits"].shape == (1, 2, 512)
    for call in (model.generate, model.tokenize):
        with pytest.raises(UsageError, match=r"m\.gguf has no tokenizer; it takes token ids only"):
            call("Hello")
    with pytest.raises(UsageError, match="has no tokenizer"):
        model.detokenize([1])


@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_writes_text(llama, cache: str):
    model = load_language(llama[0], threads=1, cache=cache, context=64, verify=False)
    assert model.context == 64
    assert "".join(model.generate(PROMPT, max_tokens=10))


def test_a_cache_that_does_not_fit_the_heads_is_one_line(llama, tmp_path: Path):
    from .tiny_decoders import write_decoder

    narrow = write_decoder(tmp_path / "source", "llama")  # heads of 16, and q8_0 has blocks of 32
    weights = {name: weight.numpy() for name, weight in narrow.state_dict().items()}
    model = load_language(write_llama(tmp_path / "m.gguf", tmp_path / "source", weights), cache="q8_0", verify=False)
    with pytest.raises(EngineError, match=r"cannot compute .*m\.gguf with a cache in q8_0: .*block size 32") as error:
        list(model.generate(PROMPT, max_tokens=3))
    assert "\n" not in str(error.value)


def test_a_prompt_that_does_not_fit_says_what_does(llama):
    model = load_language(llama[0], threads=1, context=32, verify=False)
    long = "word " * 60
    count = len(model.tokenize(long))
    with pytest.raises(UsageError, match=rf"the prompt has {count} tokens, the context 32, .* \(up to 256\)"):
        model.generate(long)
    prompt = len(model.tokenize(PROMPT))
    with pytest.raises(
        UsageError, match=rf"has {prompt} tokens and max_tokens is 30; the context of 32 leaves {32 - prompt}"
    ):
        model.generate(PROMPT, max_tokens=30)
    assert list(model.generate(PROMPT, max_tokens=32 - prompt))


def test_a_context_that_is_full_is_an_error_after_the_text_that_fits(llama):
    model = load_language(llama[0], threads=1, context=32, verify=False)
    left = 32 - len(model.tokenize(PROMPT))
    whole = list(model.generate(PROMPT, max_tokens=left, grammar="root ::= [a]{1000}"))
    stream = model.generate(PROMPT, grammar="root ::= [a]{1000}")
    assert [next(stream) for _ in whole] == whole
    with pytest.raises(EngineError, match=rf"the context of 32 tokens is full: .* of the prompt, {left} of the answer"):
        next(stream)


def test_a_stream_that_is_closed_or_forgotten_leaves_the_model_usable(model: LanguageModel):
    whole = list(model.generate(PROMPT, max_tokens=12))
    closed = model.generate(PROMPT, max_tokens=100)
    next(closed)
    closed.close()
    for _ in range(3):
        forgotten = model.generate("Something else", max_tokens=100)
        next(forgotten)
        del forgotten
    gc.collect()
    never_begun = model.generate(PROMPT, max_tokens=3)
    assert list(model.generate(PROMPT, max_tokens=12)) == whole
    del never_begun


def test_an_interrupt_ends_a_stream_and_leaves_the_model_usable(model: LanguageModel):
    whole, seen = list(model.generate(PROMPT, max_tokens=12)), []

    def read() -> None:
        for piece in model.generate(PROMPT, max_tokens=100):
            seen.append(piece)
            if len(seen) == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        read()
    assert seen == whole[:3]
    assert list(model.generate(PROMPT, max_tokens=12)) == whole


def test_streams_may_run_side_by_side_in_one_thread(model: LanguageModel):
    prompts = [PROMPT, "Something else:", "class"]
    alone = [list(model.generate(prompt, max_tokens=15)) for prompt in prompts]
    streams = [model.generate(prompt, max_tokens=15) for prompt in prompts]
    found: list[list[str]] = [[] for _ in prompts]
    while any([*(found[i].append(piece) or piece for i, s in enumerate(streams) if (piece := next(s, "")))]):
        pass
    assert found == alone


def test_threads_that_share_a_model_do_not_disturb_each_other(model: LanguageModel):
    prompts = [f"{PROMPT} {n}" for n in range(8)]
    alone = ["".join(model.generate(prompt, max_tokens=15)) for prompt in prompts]
    together = threading.Barrier(4)

    def text(prompt: str) -> str:
        stream = model.generate(prompt, max_tokens=15)
        first = next(stream)
        together.wait(timeout=60)  # all four are under way
        return first + "".join(stream)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(text, prompts)) == alone


def test_embeddings_are_for_encoders_and_text_for_decoders(model: LanguageModel, encoder: LanguageModel):
    assert encoder.embed(["a", "b c"]).shape == (2, 384)
    assert encoder.embed([]).shape == (0, 384)
    with pytest.raises(UsageError, match="tells of no pooling, so it gives no embeddings; it writes text"):
        model.embed(["a"])
    with pytest.raises(UsageError, match="gives embeddings; it writes no text"):
        encoder.generate("a")
    with pytest.raises(UsageError, match="texts is one text; expected a list of texts"):
        encoder.embed("one text")
    with pytest.raises(UsageError, match=r"text 1 has \d+ tokens; 1 to 512 fit"):
        encoder.embed(["short", "long " * 600])


def test_tokens_and_text_are_each_others(model: LanguageModel):
    ids = model.tokenize("<s>Hello there.", special=False)
    assert ids == model.tokenize("Hello there.")
    assert model.detokenize(ids) == "Hello there."
    assert model.detokenize(ids, special=True) == "<s>Hello there."
    for wrong in (-1, 512):
        with pytest.raises(UsageError, match=f"there is no token {wrong}; expected 0 to 511"):
            model.detokenize([5, wrong])
    with pytest.raises(UsageError, match="the text cannot be written in UTF-8 at character 1"):
        model.tokenize("a\ud800")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; expected at least 1"),
        ({"stop": ["a", ""]}, 'a stop string is ""'),
        ({"temperature": -1}, "temperature is -1"),
        ({"grammar": "root ::= [a]", "schema": {}}, "grammar and schema are both given"),
        ({"grammar": "nonsense"}, "the grammar cannot be read"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_at_once(model: LanguageModel, settings: dict, said: str):
    with pytest.raises(UsageError, match=said):
        model.generate(PROMPT, **settings)
    with pytest.raises(UsageError, match=said):
        model.chat(HELLO, **settings)


def test_nothing_is_printed(model: LanguageModel, llama, capfd: pytest.CaptureFixture):
    list(load_language(llama[0], threads=1).generate(PROMPT, max_tokens=3, schema={"type": "integer"}))
    assert "".join(capfd.readouterr()) == ""
