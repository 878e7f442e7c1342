"""How long a conversion to GGUF and a quantization take, beside the official converter and llama.cpp's own function.

    python benchmarks/gguf_cost.py --llama-cpp FOLDER

FOLDER is llama.cpp's source. Both convert and quantize to Q4_K_M, in turn, each in a process of its own from its start
to its end: ours with `write_gguf` and `quantize`, which plans before and checks after; the peer with its converter and
then a bare call of llama.cpp's `llama_model_quantize`, as `llama-quantize` does it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
from _common import Figure, Watch, minilm, quartiles, ratio, show, times, versions
from _llamas import NO_CONVERTER, OFFICIAL, OURS, Shape, has_converter, options, run, source_option, write_llama

TYPE = "Q4_K_M"
SMALL = Shape(layers=7, hidden=1024, neurons=2816, heads=16, pairs=16)  # 310 MB
QUANTIZE = """
import ctypes, llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = 15
assert llama_cpp.llama_model_quantize(arguments[-1].encode(), b"%s", ctypes.byref(parameters)) == 0
"""


def main() -> None:
    """Convert, print."""
    parser = options("Seconds of a conversion to GGUF, beside the official converter.")
    source_option(parser)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn (5)")
    settings, watch = parser.parse_args(), Watch()
    settings.scratch.mkdir(parents=True, exist_ok=True)
    figures = []
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        folder = Path(scratch) / "small"
        write_llama(folder, SMALL)
        words = f"{2 * SMALL.parameters / 1e6:.0f} MB Llama"
        figures += beside("MiniLM", minilm(), "F32", settings)
        figures += beside(words, folder, "BF16", settings)
    notes = [f"{watch} {versions('llama-cpp-python', 'gguf', 'transformers')}."]
    if not has_converter(settings.llama_cpp):
        notes.append(NO_CONVERTER)
    show(f"To GGUF and {TYPE}", figures, notes)


def beside(name: str, folder: Path, stored: str, settings: argparse.Namespace) -> list[Figure]:
    """Both in turn, and whether they make the same file."""
    ours: list[float] = []
    theirs: list[float] = []
    pooling, pre = ("mean", "") if name == "MiniLM" else ("", "llama-bpe")
    with tempfile.TemporaryDirectory(dir=settings.scratch) as scratch:
        own, official = Path(scratch) / "own.gguf", Path(scratch) / "official.gguf"
        for _ in range(settings.rounds):
            ours.append(taken(OURS, folder, own.with_suffix(".raw"), own, TYPE, pooling))
            if has_converter(settings.llama_cpp):
                arguments = ("--outtype", stored.lower(), "--outfile", official.with_suffix(".raw"))
                code = OFFICIAL + QUANTIZE % official
                theirs.append(taken(code, settings.llama_cpp, pre, folder, *arguments))
        figures = [Figure(f"{name}, ours", quartiles(ours, "s", 2), how=f"{settings.rounds} rounds in turn")]
        if theirs:
            reached = ratio(np.array(ours), np.array(theirs))
            figures += [
                Figure(f"{name}, official", quartiles(theirs, "s", 2)),
                Figure(f"{name}, ours over the official", times(reached), "<= 1x", reached.median <= 1),
                Figure(f"{name}, same bytes in all tensors", same(own, official)),
            ]
    return figures


def taken(code: str, *arguments: object) -> float:
    start = time.perf_counter()
    run(code, *arguments)
    return time.perf_counter() - start


def same(own: Path, official: Path) -> str:
    found, wanted = ({t.name: t.data.tobytes() for t in gguf.GGUFReader(path).tensors} for path in (own, official))
    return f"{sum(found.get(name) == held for name, held in wanted.items())} of {len(wanted)}"


if __name__ == "__main__":
    main()
