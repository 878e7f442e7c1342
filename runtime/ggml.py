"""The llama.cpp engine for `.gguf` files. A decoder gives the logits of every position, an encoder pooled embeddings:

    input_ids int64[batch, sequence]                  -> logits float32[batch, sequence, vocab]
    input_ids, attention_mask int64[batch, sequence]  -> sentence_embedding float32[batch, width]

Each row is a sequence of its own, computed alone and with its keys and values in F32, so that a result depends on
nothing but the row. Masked tokens are dropped. llama-cpp-python is imported when a session starts.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Port
from .errors import EngineError, PortError, UnknownName, UsageError
from .gguf_check import check_gguf
from .gguf_file import GgufFile, read_gguf
from .llama import CACHES, Context, Model, library
from .machine import this_machine
from .placement import Placed
from .providers import refuse_others

NORMALIZE = "edgepress.normalize"
LOGITS, EMBEDDING = "logits", "sentence_embedding"
_IDS = Port("input_ids", "int64", ("batch", "sequence"))
_MASK = Port("attention_mask", "int64", ("batch", "sequence"))
_USUAL_CONTEXT = 4096  # tokens, where nobody asks for more: the cache grows with them
_MEAN, _CLS, _LAST = 1, 2, 3  # llama.cpp's ways to pool
_STEP = 256  # a context that is too short is made anew this much longer

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GgmlEngine:
    """One open file, with what a language model needs beyond a call: the handle, its contexts, the header's facts."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]
    run: Callable[[Arrays], dict[str, np.ndarray]]
    model: Model
    file: GgufFile
    threads: int
    context: int
    cache: str
    pool: Callable[[Sequence[int]], np.ndarray] | None
    needs: Mapping[str, Any] = field(default_factory=dict)
    _idle: list[Context] = field(default_factory=list)

    @property
    def embeds(self) -> bool:
        """True for a file that gives embeddings, and no logits."""
        return self.outputs[0].name == EMBEDDING

    def placed(self) -> tuple[Placed, ...]:
        """Nothing: llama.cpp names no nodes; here all of them run on the CPU."""
        return ()

    @contextmanager
    def borrowed(self) -> Iterator[Context]:
        """An empty context of `context` tokens that is nobody else's meanwhile; one is kept for the next caller."""
        try:
            context = self._idle.pop()
        except IndexError:
            context = Context(self.model, self.context, threads=self.threads, cache=self.cache)
        try:
            context.clear()
            yield context
        finally:
            if not self._idle:
                self._idle.append(context)


def start(
    path: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    context: int | None = None,
    cache: str | None = None,
) -> GgmlEngine:
    """Open a `.gguf` file. `threads=None` is one per core; `context` and `cache` are for `generate` and `chat`.

    Raises ArtifactError where the file is no whole GGUF file, EngineError where llama.cpp cannot open it, MissingExtra
    without llama-cpp-python, UnknownName for another provider than `cpu` or a cache that is none, UsageError for
    threads below 1 and a context that the model was not trained for.
    """
    library()
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1, or None for one per core")
    refuse_others(providers, ("cpu",), "llama.cpp")
    if cache is not None and cache not in CACHES:
        raise UnknownName("cache", cache, CACHES)
    file = read_gguf(path)
    parts = file.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise EngineError(f"{path} is one of {parts} parts; merge them into one file with llama-gguf-split --merge")
    check_gguf(file)
    model = Model(path)
    size = _context_size(path, model, context)
    workers = threads or this_machine().cores
    longest, pooling = model.trained_context, file.setting("pooling_type", 0)
    if pooling in (_MEAN, _CLS, _LAST):
        normalize = bool(file.metadata.get(NORMALIZE, True))
        pool = _pooler(model, workers, longest, normalize)
        inputs, outputs = (_IDS, _MASK), (Port(EMBEDDING, "float32", ("batch", model.width)),)
        run = _embedding_runner(pool, model.width)
    elif pooling or file.setting("attention.causal", True) is False:
        key = f"{file.architecture}.pooling_type"
        raise EngineError(f"{path} has {key} {pooling}; expected 1 (mean), 2 (cls) or 3 (last)")
    else:
        pool = None
        inputs, outputs = (_IDS,), (Port(LOGITS, "float32", ("batch", "sequence", model.words)),)
        run = _logits_runner(model, workers, longest)
    needs = {"longest": {"sequence": longest}}
    return GgmlEngine(inputs, outputs, ("cpu",), run, model, file, workers, size, cache or "f16", pool, needs)


def _context_size(path: Path, model: Model, asked: int | None) -> int:
    most = model.trained_context
    if most < 1:
        raise EngineError(f"{path} was trained for a context of {most} tokens; expected at least 1")
    if asked is not None and not 1 <= asked <= most:
        raise UsageError(f"context is {asked}; {path} was trained for 1 to {most} tokens")
    return asked or min(most, _USUAL_CONTEXT)


def _logits_runner(model: Model, threads: int, longest: int) -> Callable[[Arrays], dict[str, np.ndarray]]:
    def made(size: int) -> Context:
        return Context(model, size, threads=threads, cache="f32", every=True)

    grown = _Grown(made, longest)

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        ids = _checked(inputs["input_ids"], model, longest)
        logits = np.empty((*ids.shape, model.words), np.float32)
        with grown.lock:
            context = grown.at_least(ids.shape[1])
            for index, row in enumerate(ids):
                context.clear()
                logits[index] = context.read_all(row)
        return {LOGITS: logits}

    return run


def _pooler(model: Model, threads: int, longest: int, normalize: bool) -> Callable[[Sequence[int]], np.ndarray]:
    """A function from one sequence's ids to its embedding."""

    def made(size: int) -> Context:
        return Context(model, size, threads=threads, cache="f32", pooled=True)

    grown = _Grown(made, longest)

    def pool(tokens: Sequence[int]) -> np.ndarray:
        ids = _checked(np.asarray(tokens, np.int64)[None], model, longest)[0]
        with grown.lock:
            found = grown.at_least(len(ids)).pool(ids)
        return found / max(float(np.linalg.norm(found)), 1e-12) if normalize else found

    return pool


def _embedding_runner(
    pool: Callable[[Sequence[int]], np.ndarray], width: int
) -> Callable[[Arrays], dict[str, np.ndarray]]:
    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids.shape != mask.shape:
            shapes = f"input_ids is {list(ids.shape)}, attention_mask {list(mask.shape)}"
            raise PortError(f"{shapes}; expected the same shape")
        empty = np.flatnonzero(~mask.any(axis=1)) if mask.size else np.arange(len(ids))
        if len(empty):
            raise PortError(f"row {empty[0]} has no token that attention_mask leaves; expected at least 1")
        rows = [pool(row[kept != 0]) for row, kept in zip(ids, mask, strict=True)]
        return {EMBEDDING: np.stack(rows) if rows else np.empty((0, width), np.float32)}

    return run


@dataclass
class _Grown:
    """One context for calls of any length, made anew where a call is longer than those before."""

    made: Callable[[int], Context]
    longest: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    context: Context | None = None

    def at_least(self, size: int) -> Context:
        if self.context is None or self.context.size < size:
            self.context = None  # first free the old one
            self.context = self.made(min(-(-max(size, 1) // _STEP) * _STEP, self.longest))
        return self.context


def _checked(ids: np.ndarray, model: Model, longest: int) -> np.ndarray:
    if ids.shape[1] > longest:
        raise PortError(f"the input has sequence {ids.shape[1]}; {model.path} takes up to {longest}: cut it")
    if ids.size and not 0 <= ids.min() <= ids.max() < model.words:
        raise PortError(f"input_ids holds {ids.min()} to {ids.max()}; expected 0 to {model.words - 1}")
    return ids.astype(np.int32)
