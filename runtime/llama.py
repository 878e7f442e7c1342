"""llama.cpp through the ctypes functions of llama-cpp-python: the library, a model, and a context to compute in.

A Model holds the weights and the vocabulary and may be shared by threads. A Context holds the keys and values of one
sequence, and serves one call at a time. What llama.cpp logs is kept from the terminal, and its reason for a failure is
told in the error. Both free their memory when nobody holds them any longer.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EngineError, MissingExtra

PACKAGE, EXTRA = "llama-cpp-python", "gguf"
CHUNK = 128  # tokens that are computed at once: as fast as more, and an interrupt waits for no more
# Setting -> ggml's number of the type. Those in blocks need flash attention.
CACHES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}
_IN_BLOCKS = {"q8_0", "q4_0"}
_FLASH = {"auto": -1, "off": 0, "on": 1}
_ERROR_LEVEL = 4  # ggml's; 3 is a warning
_said = threading.local()
_kept: list[Any] = []


@cache
def library() -> Any:
    """The module, its log turned to us. Raises MissingExtra where it is not installed."""
    try:
        import llama_cpp
    except (ImportError, FileNotFoundError) as error:  # the latter where its own library was not built
        raise MissingExtra(PACKAGE, EXTRA) from error
    listener = llama_cpp.llama_log_callback(_listen)
    _kept.append(listener)  # llama.cpp keeps the address for good
    llama_cpp.llama_log_set(listener, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def _listen(level: int, text: bytes, _: Any) -> None:
    words = text.decode("utf-8", "replace") if text else ""
    _said.__dict__.setdefault("log", []).append(words)
    if level == _ERROR_LEVEL:
        _said.__dict__.setdefault("lines", []).append(words.strip())


def listening() -> None:
    """Forget what this thread's earlier calls said."""
    _said.lines, _said.log = [], []


def log() -> str:
    """All that llama.cpp logged in this thread since `listening`."""
    return "".join(_said.__dict__.get("log", []))


def reason() -> str:
    """The first error that llama.cpp logged in this thread since `listening`, without the function's name."""
    lines = [line for line in _said.__dict__.get("lines", []) if line]
    if not lines:
        return "it gives no reason"
    name, _, text = lines[0].partition(": ")
    return (text if text and " " not in name else lines[0]).replace("error loading model: ", "")


def _apart(make: Callable[[], Any]) -> tuple[Any, str]:
    """What `make` gives, and why it gives nothing, from a thread of its own.

    Python raises a Ctrl-C wherever the main thread runs Python, and while llama.cpp loads that is mostly in `_listen`,
    whose exceptions C drops.
    """

    def call() -> tuple[Any, str]:
        listening()
        made = make()
        return made, "" if made else reason()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


class Model:
    """The weights and the vocabulary of a file.

    >>> model = Model(Path("tiny.gguf"))
    >>> model.text(model.tokens("Hello there."))
    'Hello there.'
    """

    def __init__(self, path: Path) -> None:
        lib = library()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        pointer, why = _apart(lambda: lib.llama_model_load_from_file(bytes(path), params))
        if not pointer:
            raise EngineError(f"llama.cpp cannot open {path}: {why}")
        weakref.finalize(self, lib.llama_model_free, pointer)
        self.pointer, self.path = pointer, path
        self.vocab = lib.llama_model_get_vocab(pointer)
        self.words: int = lib.llama_vocab_n_tokens(self.vocab)
        self.width: int = getattr(lib, "llama_model_n_embd_out", lib.llama_model_n_embd)(pointer)
        self.trained_context: int = lib.llama_model_n_ctx_train(pointer)
        self.parameters: int = lib.llama_model_n_params(pointer)
        self.bytes: int = lib.llama_model_size(pointer)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text; `special` adds those that the file wants at its begin and end."""
        lib, raw = library(), text.encode("utf-8")
        room = len(raw) + 8
        while True:
            found = (lib.llama_token * room)()
            count = lib.llama_tokenize(self.vocab, raw, len(raw), found, room, special, True)
            if count >= 0:
                return list(found[:count])
            room = -count

    def text(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of ids; `special` writes out the markers too, which else say nothing."""
        lib = library()
        ids, room = (lib.llama_token * len(tokens))(*tokens), 8 * len(tokens) + 8
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_detokenize(self.vocab, ids, len(tokens), buffer, room, False, special)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes of one token within a text, which may be half a character."""
        lib, room = library(), 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def word(self, token: int) -> str:
        """How the vocabulary writes a token; "" for -1, a token that the file does not have."""
        return library().llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace") if token >= 0 else ""

    def ends(self, token: int) -> bool:
        """True for a token that ends an answer."""
        return bool(library().llama_vocab_is_eog(self.vocab, token))


class Context:
    """Where one sequence is computed: `size` tokens at most, its keys and values in the type `cache`."""

    def __init__(
        self, model: Model, size: int, *, threads: int, cache: str = "f16", every: bool = False, pooled: bool = False
    ) -> None:
        """`every` gives room for the logits of each token; `pooled` makes a context for embeddings."""
        lib = library()
        chunk = size if pooled else min(size, CHUNK)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = size, chunk, chunk, 1
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = CACHES[cache]
        exact = cache == "f32"
        params.flash_attn_type = _FLASH["on" if cache in _IN_BLOCKS else "off" if exact or pooled else "auto"]
        params.embeddings, params.no_perf = pooled, True
        params.offload_kqv = params.op_offload = False
        if not every and not pooled:
            params.n_outputs_max = 1
        pointer, why = _apart(lambda: lib.llama_init_from_model(model.pointer, params))
        if not pointer:
            raise EngineError(f"llama.cpp cannot compute {model.path} with a cache in {cache}: {why}")
        weakref.finalize(self, _free_context, pointer, model)
        self.pointer, self.model, self.size, self.used = pointer, model, size, 0

    def clear(self) -> None:
        """Forget the sequence."""
        lib = library()
        memory = lib.llama_get_memory(self.pointer)
        if memory:
            lib.llama_memory_clear(memory, True)
        self.used = 0

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Go on with `tokens`, int32[n] with n > 0; the logits after the last of them, float32[words]."""
        logits = np.empty((0, 0), np.float32)
        for first in range(0, len(tokens), CHUNK):
            part = tokens[first : first + CHUNK]
            last = np.arange(1, len(part) + 1) == len(part)
            logits = self._decode(part, last, self.model.words)
        return logits[-1]

    def read_all(self, tokens: np.ndarray) -> np.ndarray:
        """Go on with `tokens`, int32[n]; the logits after each of them, float32[n, words]."""
        parts = [tokens[first : first + CHUNK] for first in range(0, len(tokens), CHUNK)]
        found = [self._decode(part, np.ones(len(part), bool), self.model.words) for part in parts]
        return np.concatenate(found) if found else np.empty((0, self.model.words), np.float32)

    def pool(self, tokens: np.ndarray) -> np.ndarray:
        """The pooled embedding of `tokens`, int32[n] with n > 0: float32[width]. The context must be `pooled`."""
        lib = library()
        self.clear()
        self._compute(tokens, np.ones(len(tokens), bool))
        found = lib.llama_get_embeddings_seq(self.pointer, 0)
        if not found:
            raise EngineError(f"llama.cpp gives no pooled embedding for {self.model.path}")
        return np.ctypeslib.as_array(found, (self.model.width,)).copy()

    def _decode(self, tokens: np.ndarray, wanted: np.ndarray, words: int) -> np.ndarray:
        self._compute(tokens, wanted)
        logits = library().llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(logits, (int(wanted.sum()), words)).copy()

    def _compute(self, tokens: np.ndarray, wanted: np.ndarray) -> None:
        lib = library()
        ids, flags = np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(wanted, np.int8)
        batch = lib.llama_batch(
            n_tokens=len(ids),
            token=ids.ctypes.data_as(ctypes.POINTER(lib.llama_token)),
            logits=flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        listening()
        code = lib.llama_decode(self.pointer, batch)
        if code:
            raise EngineError(f"llama.cpp stopped in {self.model.path} (code {code}): {reason()}")
        self.used += len(ids)


def _free_context(pointer: Any, model: Model) -> None:
    library().llama_free(pointer)
