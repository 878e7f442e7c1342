"""Parity of tokenizers: the same text must become the same ids, whichever file it is sent to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..export.parity import Arrays
from ..runtime.artifact import Port
from ..runtime.errors import DataError, MissingExtra

# How many words of a vocabulary are tried, and how many make a text.
_WORDS, _A_TEXT = 512, 16


@dataclass(frozen=True)
class Difference:
    """Two tokenizers that disagree: how many of the texts, and the first one with both their ids."""

    a: str
    b: str
    count: int
    texts: int
    text: str
    ids: tuple[tuple[int, ...], tuple[int, ...]]

    def __str__(self) -> str:
        at = next((i for i, (x, y) in enumerate(zip(*self.ids, strict=False)) if x != y), min(map(len, self.ids)))
        x, y = (", ".join(map(str, ids[at : at + 4])) or "nothing" for ids in self.ids)
        return (
            f"the tokenizers of {self.a} and {self.b} differ on {self.count} of {self.texts} texts; {self.text!r:.50} "
            f"at token {at}: {x} and {y}"
        )


def read_tokenizer(content: bytes, where: str) -> Any:
    """A `tokenizer.json`. Raises DataError where it cannot be read, MissingExtra without the package."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizers", "text") from error
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{where} is no tokenizer that can be read: {error}; export the model again") from error


def differences(tokenizers: Mapping[str, Any], texts: Sequence[str]) -> list[Difference]:
    """Each tokenizer against the first one, on the texts and on words from all over its vocabulary.

    `tokenizers` are those of `read_tokenizer`, by the name of their model.
    """
    if not tokenizers:
        return []
    (first, reference), *others = tokenizers.items()
    texts = [*texts, *_vocabulary(reference)]
    expected = [tuple(encoding.ids) for encoding in reference.encode_batch(list(texts))]
    found = []
    for name, tokenizer in others:
        got = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
        wrong = [i for i, (x, y) in enumerate(zip(expected, got, strict=True)) if x != y]
        if wrong:
            at = wrong[0]
            found.append(Difference(first, name, len(wrong), len(texts), texts[at], (expected[at], got[at])))
    return found


def _vocabulary(tokenizer: Any) -> list[str]:
    """Texts of words from all over a tokenizer's vocabulary, always the same ones."""
    words = sorted(tokenizer.get_vocab())
    chosen = words[:: max(1, len(words) // _WORDS)]
    return [" ".join(chosen[i : i + _A_TEXT]) for i in range(0, len(chosen), _A_TEXT)]


def text_encoder(tokenizer: Any, ports: Sequence[Port], limits: Mapping[str, int]) -> Callable[[str], Arrays]:
    """A function from a text to the ports' arrays, cut to the limits of their free axes, padded to a fixed length."""

    def padded(ids: list[int], port: Port) -> list[int]:
        length = port.shape[-1] if port.shape else None
        return ids + [0] * (length - len(ids)) if isinstance(length, int) else ids  # a mask of 0 says that it is none

    def encode(text: str) -> Arrays:
        encoding = tokenizer.encode(text)
        known = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        longest = min([limits.get(str(axis), len(encoding.ids)) for port in ports for axis in port.shape], default=None)
        return {p.name: np.array([padded(known[p.name][:longest], p)], p.dtype) for p in ports if p.name in known}

    return encode
