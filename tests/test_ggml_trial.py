"""Files that llama.cpp would end the process on are an error: the trial dies, and this process does not."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.runtime import load
from edgepress.runtime.errors import ArtifactError, EdgepressError, EngineError
from edgepress.runtime.ggml_trial import try_apart
from edgepress.runtime.gguf_file import read_gguf

from .tiny_gguf import write_llama


def test_a_good_file_comes_through(llama, minilm_gguf: Path):
    try_apart(llama[0])
    try_apart(minilm_gguf)


def test_what_llama_cpp_refuses_there_is_told_here(llama, tmp_path: Path):
    path = write_llama(tmp_path / "m.gguf", llama[0].parent / "source", {})
    with pytest.raises(EngineError, match=r"llama\.cpp cannot open .*m\.gguf: .*not found") as error:
        try_apart(path)
    assert "\n" not in str(error.value)


def test_a_vocabulary_with_a_word_twice_is_an_error_and_not_the_end_of_the_process(llama, tmp_path: Path):
    words = read_gguf(llama[0]).metadata["tokenizer.ggml.tokens"]
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    words[7] = words[8]
    path = write_llama(tmp_path / "m.gguf", llama[0].parent / "source", weights, tokenizer__ggml__tokens=words)
    with pytest.raises(EngineError, match=r"llama\.cpp dies of .*m\.gguf \(SIGABRT: .*GGML_ASSERT.*made to harm"):
        load(path, threads=1)


def test_a_file_that_is_no_gguf_is_told_before_llama_cpp_sees_it(tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(b"hello")
    with pytest.raises(EdgepressError, match="begins with b'hell', expected b'GGUF'"):
        load(tmp_path / "m.gguf")


spots = st.lists(st.tuples(st.integers(4, 20_000), st.integers(0, 255)), min_size=1, max_size=3)


@settings(max_examples=15)
@given(spots)
def test_a_mutated_file_loads_or_is_refused_in_one_line(llama, tmp_path: Path, spots: list[tuple[int, int]]):
    content = bytearray(llama[0].read_bytes())
    for at, value in spots:
        content[at] = value
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    try:
        model = load(path, threads=1)
    except (ArtifactError, EngineError) as error:
        said = str(error)
    else:
        said = "".join(model.generate("Hello", max_tokens=2)).replace("\n", " ")
    assert "\n" not in said
