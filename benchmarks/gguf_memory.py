"""How much memory a Llama of 7 billion parameters takes on its way to GGUF.

    python benchmarks/gguf_memory.py --seven

The checkpoint has random weights in bfloat16, in 33 shards. It and its file take 27 GB in the folder --scratch, and are
deleted afterwards; --quantize TYPE wants 4 GB more, and minutes.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _common import Figure, Watch, show
from _llamas import OURS, Shape, need_room, options, run, write_llama

SEVEN = Shape(layers=32, hidden=4096, neurons=11008, heads=32, pairs=32)  # 13.5 GB
GIGABYTES = 2.0


def main() -> None:
    """Write, convert, delete, print."""
    parser = options("Memory of a conversion to GGUF.")
    parser.add_argument("--quantize", default="", metavar="TYPE", help="quantize it too, and tell of that")
    parser.add_argument("--seven", action="store_true", help="do it: 27 GB of disk meanwhile, and minutes")
    settings, watch = parser.parse_args(), Watch()
    if not settings.seven:
        show("A Llama of 7 B's shape", [], ["It takes 27 GB of disk meanwhile, and minutes; --seven runs it."])
        return
    settings.scratch.mkdir(parents=True, exist_ok=True)
    figures = seven(settings.scratch, settings.quantize)
    show("A Llama of 7 B's shape", figures, [str(watch)])


def seven(scratch: Path, kind: str) -> Sequence[Figure]:
    """Seconds and peak memory of a conversion, in a process of its own."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        need_room(folder, 5 * SEVEN.parameters)
        write_llama(folder / "model", SEVEN)
        start = time.perf_counter()
        said = run(OURS, folder / "model", folder / "raw.gguf", folder / "small.gguf", kind, "")
        seconds = time.perf_counter() - start
        size = (folder / "raw.gguf").stat().st_size
    finally:
        shutil.rmtree(folder)
    converted, quantized = json.loads(said)
    reached, how = converted / 1e9, f"{SEVEN.parameters / 1e9:.2f} B parameters, 33 shards, {size / 1e9:.1f} GB in BF16"
    figures = [
        Figure("peak memory of the conversion", f"{reached:.2f} GB", f"< {GIGABYTES} GB", reached < GIGABYTES, how)
    ]
    if kind:
        figures.append(
            Figure(f"… with the quantization to {kind}", f"{quantized / 1e9:.2f} GB", how="mapped pages count")
        )
    pace = f"{seconds:.0f} s ({size / 1e6 / seconds:.0f} MB/s)"
    return [*figures, Figure("time of all", pace, how="read from and written to one disk")]


if __name__ == "__main__":
    main()
