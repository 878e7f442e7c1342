"""How near decoding comes to the machine's memory bandwidth, and what our stream adds to llama-cpp-python's.

    python benchmarks/gguf_decode.py

A Llama of 1.2 B parameters with random weights, at Q8_0 and at Q4_0. Each token reads every weight once, but for the
table of tokens, of which it reads a row. So tokens/s x bytes read is a bandwidth, which is held against that of a plain
streaming read: the sum of 2 GB of float32, a thread a core, in turn with the decoding.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import gguf
import numpy as np
from _common import Figure, Watch, quartiles, ratio, show, times, versions
from _llamas import Shape, options, write_llama

from edgepress.export.gguf_quantize import quantize
from edgepress.export.gguf_write import write_gguf
from edgepress.export.shards import read_shards
from edgepress.runtime.language import LanguageModel, load_language
from edgepress.runtime.machine import this_machine, wait_for_idle

ONE = Shape(layers=16, hidden=2048, neurons=8192, heads=32, pairs=32)
KINDS = ("Q8_0", "Q4_0")
CONTEXT = 256
READ = 2_000_000_000  # bytes of a streaming read
SHARE, NOISE = 0.8, 1.05


def main() -> None:
    """Make the files, decode, print."""
    parser = options("Decoding beside a streaming read of memory, and beside llama-cpp-python.")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a turn (32)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (10)")
    parser.add_argument("--threads", type=int, default=this_machine().cores, help="threads of all (one a core)")
    settings, watch = parser.parse_args(), Watch()
    settings.scratch.mkdir(parents=True, exist_ok=True)
    memory = np.ones(READ // 4, np.float32)
    figures = []
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        folder = Path(scratch)
        write_llama(folder / "model", ONE)
        write_gguf(read_shards(folder / "model"), folder / "model", folder / "raw.gguf")
        for kind in KINDS:
            quantize(folder / "raw.gguf", folder / f"{kind}.gguf", kind)
            figures += decoded(
                kind, folder / f"{kind}.gguf", memory, settings.tokens, settings.rounds, settings.threads
            )
    title = f"A Llama of {ONE.parameters / 1e9:.2f} B parameters, {settings.threads} threads"
    show(title, figures, [f"{watch} {versions('llama-cpp-python')}."])


def decoded(kind: str, path: Path, memory: np.ndarray, tokens: int, rounds: int, threads: int) -> list[Figure]:
    """Ours, llama-cpp-python's and the streaming read, in turn."""
    model, size = load_language(path, context=CONTEXT, threads=threads), read_bytes(path)
    with ThreadPoolExecutor(threads) as pool:
        calls = (lambda: ours(model, tokens), peer(model, tokens, threads), lambda: stream(memory, pool, threads))
        taken = np.array([[turn(call) for call in calls] for _ in range(rounds + 1)])[1:]
    own, other, reading = taken.T
    speed, bandwidth = size / own / 1e9, READ / reading / 1e9
    share = ratio(speed, bandwidth)
    over = ratio(own, other)
    percents = [f"{100 * part:.0f}" for part in (share.median, share.low, share.high)]
    return [
        Figure(f"{kind}: tokens a second", quartiles(1 / own, "/s"), how=f"{size / 1e9:.2f} GB read a token"),
        Figure(f"{kind}: bandwidth", quartiles(speed, "GB/s"), how="tokens a second x bytes read a token"),
        Figure("streaming read", quartiles(bandwidth, "GB/s"), how=f"NumPy's sum over 2 GB, {threads} threads"),
        Figure(f"{kind}: share of the streaming read", f"{percents[0]} % ({percents[1]}–{percents[2]})",
               f">= {SHARE:.0%}", share.median >= SHARE, f"{rounds} turns of {tokens} tokens"),
        Figure(f"{kind}: ours over llama-cpp-python", times(over), f"<= {NOISE}x", over.median <= NOISE,
               "seconds a token; Llama.generate, greedy"),
    ]  # fmt: skip


def turn(call: Callable[[], float]) -> float:
    """The call's own seconds, on a machine on which this process does nothing else."""
    wait_for_idle()
    return call()


def ours(model: LanguageModel, tokens: int) -> float:
    """Seconds a token. The prompt is one token, <s>: as many passes through the weights as tokens come out."""
    start = time.perf_counter()
    for _ in model.generate("", max_tokens=tokens):
        pass
    return (time.perf_counter() - start) / tokens


def peer(model: LanguageModel, tokens: int, threads: int) -> Callable[[], float]:
    """The same through llama-cpp-python. Raises SystemExit where the text ends early, which ours would stop at."""
    import llama_cpp

    path = str(model.artifact.path)
    other = llama_cpp.Llama(path, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = model.tokenize("")

    def call() -> float:
        other.reset()
        start = time.perf_counter()
        found = list(islice(other.generate(prompt, temp=0.0, reset=False), tokens))
        seconds = (time.perf_counter() - start) / tokens
        if len(prompt) != 1 or any(model.engine.model.ends(token) for token in found):
            raise SystemExit(f"the text ends early: {found}; take fewer --tokens")
        return seconds

    return call


def stream(memory: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> float:
    """Seconds of one read of all of it."""
    start = time.perf_counter()
    list(pool.map(np.sum, np.array_split(memory, threads)))
    return time.perf_counter() - start


def read_bytes(path: Path) -> int:
    """Bytes of weights that a token reads: all but the table's other rows."""
    tensors = gguf.GGUFReader(path).tensors
    return sum(int(tensor.n_bytes) for tensor in tensors if tensor.name != "token_embd.weight")


if __name__ == "__main__":
    main()
