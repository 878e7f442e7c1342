"""Sampling: which token comes next, by the logits, the settings, and a grammar that the text must keep.

    temperature 0: argmax z        else: i ~ softmax(z / temperature) over the tokens that top_k, top_p, min_p leave

top_p is nucleus sampling (Holtzman et al., 2020, The curious case of neural text degeneration). llama.cpp draws, by the
seed; a grammar is llama.cpp's GBNF, into which it turns a JSON schema.
"""

import ctypes
import json
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EngineError, UsageError
from .llama import Model, library, listening, reason

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_DEEPEST = 500  # brackets within brackets; the parser calls itself for each
_stderr = threading.Lock()
# llama-cpp-python's rule for a character of a string lets control characters through, which JSON does not have.
_LOOSE, _STRICT = r'[^"\\] |', r'[^"\\\x7F\x00-\x1F] |'


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. `top_k` 0, `top_p` 1 and `min_p` 0 leave every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}; expected 0 (the likeliest token) or more")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}; expected 0 (every token) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; expected more than 0 and at most 1 (every token)")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p is {self.min_p}; expected 0 (every token) to 1")
        if not 0 <= self.seed < 2**32 - 1:
            raise UsageError(f"seed is {self.seed}; expected 0 to {2**32 - 2}")


def as_grammar(grammar: str | None, schema: Mapping[str, Any] | None) -> str | None:
    """The GBNF text of a grammar or a JSON schema, of which at most one is given. Raises UsageError."""
    if grammar is not None and schema is not None:
        raise UsageError("grammar and schema are both given; expected one of them, or none")
    if schema is None:
        return grammar
    if not isinstance(schema, Mapping):
        raise UsageError(
            f"the schema is a {type(schema).__name__}; expected a JSON schema, such as {{'type': 'object'}}"
        )
    library()
    from llama_cpp.llama_grammar import json_schema_to_gbnf  # pyright: ignore[reportMissingImports]

    try:
        text = json.dumps(schema)
        if '"$ref": "http' in text:
            raise UsageError("the schema refers to another one by $ref over the network; write it into this one")
        return json_schema_to_gbnf(text).replace(_LOOSE, _STRICT)
    except (ValueError, TypeError, KeyError, AssertionError, AttributeError, IndexError, RecursionError) as error:
        raise UsageError(f"the schema cannot be made a grammar: {type(error).__name__} {error}".strip()) from error


class Sampler:
    """Draws one token after another; not to be shared by two streams."""

    def __init__(self, model: Model, settings: Sampling, grammar: str | None = None) -> None:
        """Raises UsageError, with llama.cpp's reason, for a grammar that it cannot read."""
        self.model = model
        self.grammar = None if grammar is None else _grammar(model, grammar)
        self.chain = _chain(settings)
        for pointer in filter(None, (self.grammar, self.chain)):
            weakref.finalize(self, _free, pointer, model)

    def next(self, logits: np.ndarray) -> int:
        """The token after those seen so far, by `logits`, float32[words]."""
        token = self._draw(logits)
        if self.grammar is not None:
            if not self._allowed(token):
                token = self._draw(self._masked(logits))
            library().llama_sampler_accept(self.grammar, token)
        library().llama_sampler_accept(self.chain, token)
        return token

    def _draw(self, logits: np.ndarray) -> int:
        candidates = _candidates(np.arange(len(logits)), logits)
        array = _apply(self.chain, candidates)
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        """True where the grammar goes on with this token: far quicker to ask than of all."""
        candidate = _candidates(np.array([token]), np.zeros(1))
        _apply(self.grammar, candidate)
        return bool(np.isfinite(candidate["logit"][0]))

    def _masked(self, logits: np.ndarray) -> np.ndarray:
        candidates = _candidates(np.arange(len(logits)), logits)
        _apply(self.grammar, candidates)
        if not np.isfinite(candidates["logit"]).any():
            raise EngineError(f"the vocabulary of {self.model.path} has no token with which the grammar could go on")
        return candidates["logit"]


def _candidates(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    candidates = np.zeros(len(ids), _CANDIDATE)
    candidates["id"], candidates["logit"] = ids, logits
    return candidates


def _apply(sampler: Any, candidates: np.ndarray) -> Any:
    lib = library()
    array = lib.llama_token_data_array(
        data=candidates.ctypes.data_as(lib.llama_token_data_p), size=len(candidates), selected=-1, sorted=False
    )
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    return array


def _chain(settings: Sampling) -> Any:
    lib = library()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    steps = [lib.llama_sampler_init_greedy()]
    if settings.temperature > 0:
        steps = [
            lib.llama_sampler_init_top_k(settings.top_k),
            lib.llama_sampler_init_top_p(settings.top_p, 1),
            lib.llama_sampler_init_min_p(settings.min_p, 1),
            lib.llama_sampler_init_temp(settings.temperature),
            lib.llama_sampler_init_dist(settings.seed),
        ]
    for step in steps:
        lib.llama_sampler_chain_add(chain, step)
    return chain


def _free(pointer: Any, _: Model) -> None:  # the grammar looks into the model's vocabulary: it is held till then
    library().llama_sampler_free(pointer)


def _grammar(model: Model, text: str) -> Any:
    raw = text.encode("utf-8")
    depth = np.cumsum([(byte == 40) - (byte == 41) for byte in raw]).max(initial=0)
    if not text.strip() or b"\0" in raw or depth > _DEEPEST:
        raise UsageError(f"the grammar is empty, has a zero byte, or nests deeper than {_DEEPEST}; expected GBNF")
    with _stderr_of_c() as said:
        listening()
        pointer = library().llama_sampler_init_grammar(model.vocab, raw, b"root")
    if not pointer:
        told = next((line.partition("grammar: ")[2] for line in said if "grammar: " in line), "") or reason()
        raise UsageError(f"the grammar cannot be read: {told.strip()}; expected GBNF with a rule named root")
    return pointer


@contextmanager
def _stderr_of_c() -> Iterator[list[str]]:
    """What C code prints to stderr meanwhile goes into the list: the grammar's parser has no other way to tell."""
    said: list[str] = []
    with _stderr, tempfile.TemporaryFile() as caught:
        try:
            kept = os.dup(2)
        except OSError:  # closed, as a service's may be
            yield said
            return
        try:
            os.dup2(caught.fileno(), 2)
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        said += caught.read().decode("utf-8", "replace").splitlines()
