"""How fast a language model reads and writes, and how near its writing comes to the memory's bandwidth.

To write a token every weight is read once, and the keys and values of all tokens before it:

    limit (tokens/s) = bandwidth / (bytes of the weights + bytes of the cache)        share = decode / limit

The bandwidth is that of a plain sum over an array far larger than the caches, by as many threads, in the same process
and in turn with the model, so that a drift of the machine meets both.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .errors import UsageError
from .gguf_file import GgufFile
from .language import LanguageModel
from .llama import Context
from .machine import peak_memory
from .timing import LanguageTiming

_ARRAY = 2**28  # bytes: far more than any cache has
# Bytes of a value in the cache, by its type.
_CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


def bench_language(
    model: LanguageModel, *, lengths: Sequence[int] = (128, 512), tokens: int = 32, rounds: int = 5,
    limit_s: float = math.inf,
) -> tuple[LanguageTiming, ...]:  # fmt: skip
    """Time prompts of each length, the shortest first, and `tokens` tokens after each of them.

    Once `limit_s` seconds are over no other length and no further round begins; the shortest has one in any case.

    Raises UsageError for a model that writes no text, and where a prompt and its tokens do not fit into the context.

    >>> bench_language(load_language("tiny.gguf"), lengths=(128,))[0].share
    0.83
    """
    if model.engine.embeds:
        raise UsageError(f"{model.artifact.path} gives embeddings; it writes no text that could be timed")
    if not lengths or min(*lengths, tokens, rounds) < 1:
        raise UsageError(f"lengths {list(lengths)}, {tokens} tokens, {rounds} rounds; expected at least 1 of each")
    if max(lengths) + tokens > model.context:
        need = max(lengths) + tokens
        raise UsageError(f"{need} tokens are needed, the context has {model.context}; load with a larger one")
    found = []
    with model.engine.borrowed() as context, ThreadPoolExecutor(model.engine.threads) as pool:
        memory = {}
        end = time.perf_counter() + limit_s
        for length in sorted(lengths):  # the file comes into memory, and that of each length is seen without the array
            if memory and time.perf_counter() > end:
                break
            _round(context, length, tokens)
            memory[length] = peak_memory()
        array = np.ones(_ARRAY // 8, np.int64)
        for length in memory:
            if found and time.perf_counter() > end:
                break
            seen = []
            for _ in range(rounds):
                if seen and time.perf_counter() > end:
                    break
                seen.append((*_round(context, length, tokens), _bandwidth(array, pool, model.engine.threads)))
            prefill, decode, first, bandwidth = zip(*seen, strict=True)
            read = bytes_read(model.engine.file, length + tokens // 2, model.engine.cache)
            found.append(LanguageTiming(length, prefill, decode, first, bandwidth, read, memory[length]))
    return tuple(found)


def bytes_read(file: GgufFile, depth: int, cache: str) -> int | None:
    """The bytes that one token takes after `depth` others: the weights, and the keys and values. None where it depends.

    A table of words of which a row is looked up counts only where it also gives the logits.
    """
    if file.setting("expert_count", 0):
        return None
    names = {tensor.name for tensor in file.tensors}
    looked_up = {"position_embd.weight", *({"token_embd.weight"} if "output.weight" in names else ())}
    weights = sum(tensor.bytes for tensor in file.tensors if tensor.name not in looked_up)
    heads = file.setting("attention.head_count", 1)
    shared = file.setting("attention.head_count_kv", heads)
    width = file.setting("embedding_length")
    if not isinstance(heads, int) or not isinstance(shared, int):  # other numbers in each layer
        return None
    sides = (file.setting(f"attention.{side}_length", width // heads) for side in ("key", "value"))
    values = file.setting("block_count") * shared * sum(sides)
    return weights + round(depth * values * _CACHE_BYTES[cache])


def _round(context: Context, length: int, tokens: int) -> tuple[float, float, float]:
    """Tokens/s of a prompt, tokens/s after it, seconds to the first token."""
    words = context.model.words
    prompt = (np.arange(length) * 7919 % words).astype(np.int32)
    context.clear()
    start = time.perf_counter()
    logits = context.read(prompt)
    read = time.perf_counter()
    for _ in range(tokens):
        logits = context.read(np.array([int(logits.argmax())], np.int32))
    written = time.perf_counter()
    return length / (read - start), tokens / (written - read), read - start


def _bandwidth(array: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> float:
    """Bytes/s of a plain sum, each thread over its part."""
    parts = np.array_split(array, threads)
    start = time.perf_counter()
    list(pool.map(np.sum, parts))
    return array.nbytes / (time.perf_counter() - start)
