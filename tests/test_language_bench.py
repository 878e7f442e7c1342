"""Speeds of a language model: figures that belong together, and the bytes that a token takes."""

from pathlib import Path

import numpy as np
import pytest

from edgepress.runtime.errors import UsageError
from edgepress.runtime.gguf_file import read_gguf
from edgepress.runtime.language import load_language
from edgepress.runtime.language_bench import LanguageTiming, bench_language, bytes_read

from .tiny_gguf import write_llama


def test_each_length_has_a_figure_for_each_round(llama):
    model = load_language(llama[0], threads=1, verify=False)
    timings = bench_language(model, lengths=(64, 16), tokens=4, rounds=3)
    assert [timing.length for timing in timings] == [16, 64]
    for timing in timings:
        for figures in (timing.prefill, timing.decode, timing.first_token, timing.bandwidth):
            assert len(figures) == 3
            assert min(figures) > 0
        assert timing.first_token == pytest.approx([timing.length / speed for speed in timing.prefill])
        assert timing.share is not None
        assert timing.share > 0
    assert list(model.generate("Hello", max_tokens=3))


def test_the_share_is_that_of_the_median_round():
    timing = LanguageTiming(1, (1.0,) * 3, (10.0, 20.0, 5.0), (1.0,) * 3, (1000.0, 1000.0, 1000.0), 40, None)
    assert timing.share == pytest.approx(0.4)


def test_a_token_takes_the_weights_and_what_came_before(llama):
    file = read_gguf(llama[0])
    weights = sum(weight.numel() for weight in llama[1].state_dict().values()) - 512 * 128  # a row is looked up
    values = 2 * 2 * 2 * 32  # layers, keys and values, heads, width
    assert bytes_read(file, 0, "f16") == 4 * weights
    assert bytes_read(file, 10, "f32") == 4 * weights + 10 * 4 * values
    assert bytes_read(file, 10, "q8_0") == 4 * weights + 10 * values * 34 // 32


def test_a_table_that_gives_the_logits_too_is_read(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items() if name != "lm_head.weight"}
    source = llama[0].parent / "source"
    tied = read_gguf(write_llama(tmp_path / "tied.gguf", source, weights))
    assert bytes_read(tied, 0, "f16") == sum(4 * np.prod(weight.shape) for weight in weights.values())
    mixture = read_gguf(write_llama(tmp_path / "mixture.gguf", source, weights, llama__expert_count=4))
    assert bytes_read(mixture, 0, "f16") is None


def test_what_cannot_be_timed_is_refused(llama, minilm_gguf: Path):
    model = load_language(llama[0], threads=1, context=32, verify=False)
    with pytest.raises(UsageError, match="40 tokens are needed, the context has 32"):
        bench_language(model, lengths=(36,), tokens=4)
    for settings in (
        {"lengths": ()},
        {"lengths": (0,)},
        {"lengths": (4,), "tokens": 0},
        {"lengths": (4,), "rounds": 0},
    ):
        with pytest.raises(UsageError, match="expected at least 1 of each"):
            bench_language(model, **settings)
    with pytest.raises(UsageError, match="gives embeddings; it writes no text that could be timed"):
        bench_language(load_language(minilm_gguf, threads=1, verify=False))


def test_a_limit_that_is_over_leaves_one_round_of_the_shortest(llama):
    (seen,) = bench_language(load_language(llama[0], verify=False, threads=1), lengths=(32, 16), tokens=2, limit_s=0.0)
    assert (seen.length, len(seen.decode)) == (16, 1)
