"""What a conversion to GGUF costs: seconds beside the official converter, and memory for a model of 7 B parameters.

    python benchmarks/gguf_cost.py --llama-cpp FOLDER

FOLDER is llama.cpp's source. Both convert and quantize to Q4_K_M, in turn, each in a process of its own from its start
to its end: ours with `write_gguf` and `quantize`, which plans before and checks after; the peer with its converter and
then a bare call of llama.cpp's `llama_model_quantize`, as `llama-quantize` does it. The 7 B-shaped checkpoint has
random weights in bfloat16; it and its file take 27 GB in the folder --scratch meanwhile.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from _common import Figure, Watch, minilm, quartiles, ratio, show, times, versions
from _llamas import NO_CONVERTER, OFFICIAL, Shape, has_converter, need_room, options, run, source_option, write_llama

TYPE = "Q4_K_M"
SMALL = Shape(layers=7, hidden=1024, neurons=2816, heads=16, pairs=16)  # 310 MB
SEVEN = Shape(layers=32, hidden=4096, neurons=11008, heads=32, pairs=32)  # 13.5 GB
GIGABYTES = 2.0
OURS = """
import json, sys
from pathlib import Path
from edgepress.export.gguf_quantize import quantize
from edgepress.export.gguf_write import Pooled, write_gguf
from edgepress.export.shards import read_shards
from edgepress.runtime.machine import peak_memory
folder, floats, target, kind, pooling = sys.argv[1:]
write_gguf(read_shards(Path(folder)), Path(folder), Path(floats), pooled=Pooled(pooling, bool(pooling)))
converted = peak_memory()
if kind:
    quantize(Path(floats), Path(target), kind)
print(json.dumps([converted, peak_memory()]))
"""
QUANTIZE = """
import ctypes, llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = 15
assert llama_cpp.llama_model_quantize(arguments[-1].encode(), b"%s", ctypes.byref(parameters)) == 0
"""


def main() -> None:
    """Convert, print."""
    parser = options("Seconds and memory of a conversion to GGUF.")
    source_option(parser)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn (5)")
    parser.add_argument("--without-seven", action="store_true", help="leave the model of 7 billion parameters out")
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
    if not settings.without_seven:
        watch = Watch()
        show("A Llama of 7 B's shape", seven(settings.scratch), [str(watch)])


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


def seven(scratch: Path) -> Sequence[Figure]:
    """Seconds and peak memory of a conversion, and what quantizing adds; the checkpoint is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        need_room(folder, 5 * SEVEN.parameters)
        write_llama(folder / "model", SEVEN)
        start = time.perf_counter()
        converted, _ = json.loads(run(OURS, folder / "model", folder / "raw.gguf", "", "", ""))
        seconds = time.perf_counter() - start
        size = (folder / "raw.gguf").stat().st_size
    finally:
        shutil.rmtree(folder)
    reached = converted / 1e9
    how = f"{SEVEN.parameters / 1e9:.2f} B parameters, 33 shards, {size / 1e9:.1f} GB in BF16"
    return [
        Figure("peak memory of the conversion", f"{reached:.2f} GB", f"< {GIGABYTES} GB", reached < GIGABYTES, how),
        Figure("seconds", f"{seconds:.0f} s ({size / 1e6 / seconds:.0f} MB/s)", how="reading and writing one disk"),
    ]


if __name__ == "__main__":
    main()
