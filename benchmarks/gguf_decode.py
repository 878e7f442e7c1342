"""How near decoding comes to the machine's memory bandwidth, and what our stream adds to llama-cpp-python's.

    python benchmarks/gguf_decode.py

A Llama of 1.2 B parameters with random weights, at Q8_0 and at Q4_0. Each token reads every weight once, but for the
table of tokens, of which it reads a row. So tokens/s x bytes read is a bandwidth, which is held against that of a plain
streaming read: the sum of 2 GB of float32, in as many threads, in turn with the decoding.
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

from edgepress.devices.measure import Ratio
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
    parser.add_argument("--threads", type=int, nargs="+", default=[1, this_machine().cores], help="(1, and one a core)")
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
            for threads in dict.fromkeys(settings.threads):
                path = folder / f"{kind}.gguf"
                figures += decoded(kind, path, memory, settings.tokens, settings.rounds, threads)
    title = f"A Llama of {ONE.parameters / 1e9:.2f} B parameters"
    show(title, figures, [f"{watch} {versions('llama-cpp-python')}."])


def decoded(kind: str, path: Path, memory: np.ndarray, tokens: int, rounds: int, threads: int) -> list[Figure]:
    """Ours, llama-cpp-python's and the streaming read, in turn; by the clock and by the processor's time."""
    model, size = load_language(path, context=CONTEXT, threads=threads), read_bytes(path)
    with ThreadPoolExecutor(threads) as pool:
        calls = (lambda: ours(model, tokens), peer(model, tokens, threads), lambda: stream(memory, pool, threads))
        taken = np.array([[turn(call) for call in calls] for _ in range(rounds + 1)])[1:]
    name = f"{kind}, {threads} thread{'s' if threads > 1 else ''}"
    (own, busy), (other, other_busy), (reading, reading_busy) = taken.transpose(1, 2, 0)
    found = ratio(tokens * size / own, READ / reading)
    by_processor = ratio(tokens * size / busy, READ / reading_busy)
    over = ratio(own, other)
    return [
        Figure(f"{name}: tokens a second", quartiles(tokens / own, "/s"), how=f"{size / 1e9:.2f} GB read a token"),
        Figure(f"{name}: bandwidth", quartiles(tokens * size / own / 1e9, "GB/s")),
        Figure("  the streaming read's", quartiles(READ / reading / 1e9, "GB/s"), how="NumPy's sum over 2 GB"),
        Figure("  share of it, by the clock", percent(found), f">= {SHARE:.0%}", found.median >= SHARE,
               f"{rounds} turns of {tokens} tokens"),
        Figure("  share of it, by processor time", percent(by_processor), how="what other programs disturb less"),
        Figure("  time over llama-cpp-python's", times(over), f"<= {NOISE}x", over.median <= NOISE, "Llama.generate"),
        Figure("  the same by processor time", times(ratio(busy, other_busy))),
    ]  # fmt: skip


def percent(found: Ratio) -> str:
    return f"{100 * found.median:.0f} % ({100 * found.low:.0f}–{100 * found.high:.0f})"


def turn(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, on a machine on which this process does nothing else."""
    wait_for_idle()
    start, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - busy


def ours(model: LanguageModel, tokens: int) -> None:
    """The prompt is one token, <s>: there are as many passes through the weights as tokens come out."""
    for _ in model.generate("", max_tokens=tokens):
        pass


def peer(model: LanguageModel, tokens: int, threads: int) -> Callable[[], object]:
    """The same through llama-cpp-python. Raises SystemExit where the text ends early, which ours would stop at."""
    import llama_cpp

    path = str(model.artifact.path)
    other = llama_cpp.Llama(path, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = model.tokenize("")

    def call() -> list[int]:
        other.reset()
        return list(islice(other.generate(prompt, temp=0.0, reset=False), tokens))

    found = call()
    if len(prompt) != 1 or any(model.engine.model.ends(token) for token in found):
        raise SystemExit(f"the text ends early: {found}; take fewer --tokens")
    return call


def stream(memory: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> None:
    """One read of all of it."""
    list(pool.map(np.sum, np.array_split(memory, threads)))


def read_bytes(path: Path) -> int:
    """Bytes of weights that a token reads: all but the table's other rows."""
    tensors = gguf.GGUFReader(path).tensors
    return sum(int(tensor.n_bytes) for tensor in tensors if tensor.name != "token_embd.weight")


if __name__ == "__main__":
    main()
