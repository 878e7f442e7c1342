"""Sizes and ids of a GGUF file that llama.cpp would stumble over, or replace by others without an error."""

from .errors import ArtifactError
from .gguf_file import GgufFile

_MOST_BLOCKS = 512  # llama.cpp's own limit; it aborts beyond
# The lists that go word by word with the vocabulary.
_BESIDE = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def check_gguf(file: GgufFile) -> None:
    """Raise ArtifactError, naming the key, for a value that cannot be right.

    >>> check_gguf(read_gguf(Path("tiny.gguf")))
    """
    if not file.architecture:
        raise ArtifactError(f"{file.path} tells no general.architecture; expected a language model, such as 'llama'")
    blocks = file.setting("block_count")
    if not isinstance(blocks, int) or not 1 <= blocks <= _MOST_BLOCKS:
        raise _wrong(file, f"{file.architecture}.block_count", blocks, f"1 to {_MOST_BLOCKS}")
    for name in ("context_length", "embedding_length"):
        value = file.setting(name)
        if not isinstance(value, int) or not 1 <= value < 2**31:
            raise _wrong(file, f"{file.architecture}.{name}", value, "1 or more")
    words = file.metadata.count("tokenizer.ggml.tokens")
    for key in _BESIDE:
        if key in file.metadata and file.metadata.count(key) != words:
            raise _wrong(file, key, f"{file.metadata.count(key)} long", f"{words}, one a word of the vocabulary")
    for key in file.metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            value = file.metadata[key]
            if words and not (isinstance(value, int) and 0 <= value < words):
                raise _wrong(file, key, value, f"0 to {words - 1}, a word of the vocabulary")


def _wrong(file: GgufFile, key: str, value: object, expected: str) -> ArtifactError:
    seen = "missing" if value is None else f"{value!r:.60}" if not isinstance(value, str) else value
    return ArtifactError(f"{file.path} is damaged: {key} is {seen}, expected {expected}; convert the model again")
