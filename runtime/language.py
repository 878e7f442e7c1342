"""LanguageModel: what an open model of text offers beyond a call: generate, chat, embed.

Each stream has a context of its own, so that several may run at once, in one thread or in many; each costs the memory
of its cache. A stream that is not read to its end leaves the model as it was. Nothing is cut in silence: what does not
fit into the context is an error that says what does.
"""

import unicodedata
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .chat import render
from .errors import EngineError, UsageError
from .ggml import GgmlEngine
from .sampling import Sampler, Sampling, as_grammar
from .session import LoadedModel, load
from .stream import characters, until

# Ours: the normal form that text takes before it is split.
UNICODE = "edgepress.unicode_normalization"
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def load_language(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the field's word
    threads: int | None = None,
    verify: bool = True,
    context: int | None = None,
    cache: str | None = None,
) -> "LanguageModel":
    """`load` for those who want text: the same settings, and UsageError where the file is no language model.

    >>> load_language("tiny.gguf", cache="q8_0").context
    256
    """
    model = load(path, format=format, threads=threads, verify=verify, context=context, cache=cache)
    if not isinstance(model, LanguageModel):
        raise UsageError(f"{path} is in the format {model.artifact.format}; expected a language model: a GGUF file")
    return model


@dataclass(frozen=True)
class LanguageModel(LoadedModel):
    """An open GGUF file. A call gives logits or embeddings, as with any model; the methods take and give text.

    >>> model = load_language("tiny.gguf", context=512)
    >>> "".join(model.generate("Once upon a time", max_tokens=20))
    ', there was a small model.'
    """

    engine: GgmlEngine

    @property
    def context(self) -> int:
        """How many tokens a prompt and its continuation may have together."""
        return self.engine.context

    @property
    def chats(self) -> bool:
        """True where the file has a chat template."""
        return bool(self._template())

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text; `special` adds those that the file wants at its begin and end.

        Markers such as `<|im_end|>` are read as the tokens that they name. The text is brought into the normal form of
        Unicode that the file says its tokenizer wants (Qwen: NFC), for llama.cpp does not. Raises UsageError for a text
        that is no Unicode, and for a file without a tokenizer.
        """
        self._require_tokenizer()
        form = self.engine.file.metadata.get(UNICODE, "")
        try:
            normal = unicodedata.normalize(form, text) if form in _FORMS else text
            return self.engine.model.tokens(normal, special=special)
        except UnicodeEncodeError as error:
            raise UsageError(f"the text cannot be written in UTF-8 at character {error.start}") from error

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of ids; `special` writes out the markers, else silent. Raises UsageError for an unknown one."""
        self._require_tokenizer()
        most = self.engine.model.words
        for token in tokens:
            if not 0 <= token < most:
                raise UsageError(f"there is no token {token}; expected 0 to {most - 1}")
        return self.engine.model.text(tokens, special=special)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        grammar: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Continue a text; pieces come as they are computed.

        It ends where the model ends it, before a `stop` string, or after `max_tokens`; without `max_tokens` a context
        that is full is an EngineError, after the text that fits. `temperature` 0 takes the likeliest token, and the
        same settings give the same text. `grammar` is GBNF, `schema` a JSON schema that the text will keep.
        Raises UsageError, at once, for settings that cannot be right and a prompt that does not fit.
        """
        settings = Sampling(temperature, top_k, top_p, min_p, seed)
        return self._written(self.tokenize(prompt), max_tokens, settings, stop, as_grammar(grammar, schema))

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        grammar: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Answer a conversation, written with the file's own template; the rest is as for `generate`.

        A message has a `role` (`system`, `user`, `assistant`) and a `content`. Raises UsageError where the file has no
        template, or its template refuses the messages.

        >>> list(model.chat([{"role": "user", "content": "Hello!"}], max_tokens=8))
        ['Hello', ' there', '.']
        """
        template = self._template()
        if not template:
            raise UsageError(f"{self.artifact.path} has no chat template; use generate, or convert it with one")
        settings = Sampling(temperature, top_k, top_p, min_p, seed)
        first = self._marker("bos")
        text = render(template, messages, bos=first, eos=self._marker("eos"))
        tokens = self.tokenize(text, special=not (first and text.startswith(first)))
        return self._written(tokens, max_tokens, settings, stop, as_grammar(grammar, schema))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One embedding a text, float32[n, width], as the file pools them.

        Raises UsageError where the file tells of no pooling, and for a text that is longer than the file takes.
        """
        if isinstance(texts, str):
            raise UsageError("texts is one text; expected a list of texts")
        pool = self.engine.pool
        if pool is None:
            raise UsageError(f"{self.artifact.path} tells of no pooling, so it gives no embeddings; it writes text")
        ids = [self.tokenize(text) for text in texts]
        most = self.engine.model.trained_context
        for index, tokens in enumerate(ids):
            if not 1 <= len(tokens) <= most:
                raise UsageError(f"text {index} has {len(tokens)} tokens; 1 to {most} fit")
        rows = [pool(tokens) for tokens in ids]
        return np.stack(rows) if rows else np.empty((0, self.engine.model.width), np.float32)

    def _require_tokenizer(self) -> None:
        if not self.engine.file.has_tokenizer:
            raise UsageError(f"{self.artifact.path} has no tokenizer; it takes token ids only")

    def _template(self) -> str:
        found = self.engine.file.metadata.get("tokenizer.chat_template", "")
        return found if isinstance(found, str) else ""

    def _marker(self, which: str) -> str:
        """How the vocabulary writes `bos` or `eos`; "" where the file has none."""
        token = self.engine.file.metadata.get(f"tokenizer.ggml.{which}_token_id", -1)
        known = isinstance(token, int) and 0 <= token < self.engine.model.words
        return self.engine.model.word(token) if known else ""

    def _written(
        self,
        tokens: Sequence[int],
        max_tokens: int | None,
        settings: Sampling,
        stop: Sequence[str],
        grammar: str | None,
    ) -> Iterator[str]:
        """Check what can be checked at once, then hand the stream out."""
        if self.engine.embeds:
            raise UsageError(f"{self.artifact.path} gives embeddings; it writes no text")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(stops):
            raise UsageError('a stop string is ""; expected at least 1 character each')
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; expected at least 1, or None for as many as fit")
        if not tokens:
            raise UsageError("the prompt has no tokens, and the file starts no text with one; expected at least 1")
        left = self.context - len(tokens)
        if left < 1:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens, the context {self.context}, and an answer needs 1 more: shorten "
                f"it, or load with a larger context (up to {self.engine.model.trained_context})"
            )
        if max_tokens is not None and max_tokens > left:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens and max_tokens is {max_tokens}; the context of {self.context} "
                f"leaves {left}"
            )
        sampler = Sampler(self.engine.model, settings, grammar)
        return self._stream(np.array(tokens, np.int32), max_tokens, sampler, stops)

    def _stream(
        self, tokens: np.ndarray, max_tokens: int | None, sampler: Sampler, stops: Sequence[str]
    ) -> Iterator[str]:
        with closing(self._pieces(tokens, max_tokens, sampler)) as pieces:
            yield from until(characters(pieces), stops)

    def _pieces(self, tokens: np.ndarray, max_tokens: int | None, sampler: Sampler) -> Generator[bytes]:
        """The bytes of one token after another."""
        model = self.engine.model
        with self.engine.borrowed() as context:
            logits, left = context.read(tokens), self.context - len(tokens)
            for index in range(left if max_tokens is None else max_tokens):
                token = sampler.next(logits)
                if model.ends(token):
                    return
                yield model.piece(token)
                if index + 1 != max_tokens and index + 1 < left:
                    logits = context.read(np.array([token], np.int32))
            if max_tokens is None:
                raise EngineError(
                    f"the context of {self.context} tokens is full: {len(tokens)} of the prompt, {left} of the answer; "
                    f"load with a larger one (up to {model.trained_context}), or say max_tokens"
                )
