"""Values of a header that cannot be right are named before llama.cpp stumbles over them."""

from pathlib import Path

import pytest

from edgepress.runtime.errors import ArtifactError
from edgepress.runtime.gguf_check import check_gguf
from edgepress.runtime.gguf_file import read_gguf

from .tiny_gguf import write

GOOD = {
    "small.block_count": 2,
    "small.context_length": 64,
    "small.embedding_length": 32,
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.ggml.token_type": [1, 1],
    "tokenizer.ggml.bos_token_id": 1,
}
FAULTS = [
    ("small.block_count", None, "small.block_count is missing, expected 1 to 512"),
    ("small.block_count", 0, "small.block_count is 0, expected 1 to 512"),
    ("small.block_count", 70_000, "small.block_count is 70000, expected 1 to 512"),
    ("small.context_length", 0, "small.context_length is 0, expected 1 or more"),
    ("small.embedding_length", "x", "small.embedding_length is x, expected 1 or more"),
    ("tokenizer.ggml.token_type", [1], "token_type is 1 long, expected 2, one a word of the vocabulary"),
    ("tokenizer.ggml.scores", [0.0] * 3, "scores is 3 long, expected 2, one a word of the vocabulary"),
    ("tokenizer.ggml.eos_token_id", 2, "eos_token_id is 2, expected 0 to 1, a word of the vocabulary"),
]


def test_what_is_right_is_let_through(tmp_path: Path, llama, minilm_gguf: Path):
    for path in (write(tmp_path / "m.gguf", "small", GOOD, {}), llama[0], minilm_gguf):
        check_gguf(read_gguf(path))


@pytest.mark.parametrize(("key", "value", "said"), FAULTS)
def test_a_value_that_cannot_be_right_is_named(tmp_path: Path, key: str, value: object, said: str):
    path = write(tmp_path / "m.gguf", "small", GOOD | {key: value}, {})
    with pytest.raises(ArtifactError) as error:
        check_gguf(read_gguf(path))
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert said in str(error.value)


def test_a_file_of_no_architecture_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"tells no general\.architecture"):
        check_gguf(read_gguf(write(tmp_path / "m.gguf", "", {}, {})))
