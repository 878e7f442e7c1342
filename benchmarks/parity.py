"""Parity: how long it takes to hold five files of all-MiniLM-L6-v2 against each other, and how near they are.

    python benchmarks/parity.py

fp32, float16 and int8 as TFLite, fp32 and int8 as ONNX, and the source, on 256 judged and some unnatural inputs;
the score of each through its own engine. The time is that of the whole command, with Python and torch.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from _common import OUT, Figure, Watch, minilm, show, texts

from edgepress.compress.encoder import read_encoder
from edgepress.compress.float16 import Float16
from edgepress.compress.quantize import DynamicInt8
from edgepress.devices.device import find_device
from edgepress.export.formats import export

SECONDS, SENTENCES = 60, 256
LENGTHS = (32, 128)


def main() -> None:
    """Export, hold against each other, print the matrix."""
    argparse.ArgumentParser(description="Parity of five files of MiniLM: seconds and cosines.").parse_args()
    watch = Watch()
    OUT.mkdir(parents=True, exist_ok=True)
    data = OUT / "parity.txt"
    judged = [line for kind in texts(SENTENCES).values() for line in kind[:SENTENCES]]
    data.write_text("\n".join(judged), encoding="utf-8")
    files = written(data)
    command = [sys.executable, "-P", "-c", "from edgepress.compress.cli import main; main()", "verify"]
    command += [*map(str, files), "--source", str(minilm()), "--data", str(data), "--json"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    parity = json.loads(done.stdout)["parity"]
    counts = ", ".join(f"{count} {kind}" for kind, count in parity["samples"].items() if count > 1)
    figures = [Figure("the whole command", f"{seconds:.0f} s", f"< {SECONDS} s", seconds < SECONDS, counts)]
    for pair in parity["pairs"]:
        words = f"cosine {pair['cosine']:.5f}, worst {pair['worst_cosine']:.5f}"
        limits = pair["limits"]
        target = f">= {limits['cosine']}, >= {limits['worst_cosine']}"
        figures.append(Figure(f"{pair['a']} | {pair['b']}", words, target, not pair["breaches"]))
    show("all-MiniLM-L6-v2: five files and their source", figures, [str(watch)])


def written(data: Path) -> list[Path]:
    """The files, the TFLite ones at two lengths."""
    task = read_encoder(minilm(), data)
    model = replace(task.model, name="minilm", lengths={"sequence": LENGTHS})
    small = DynamicInt8(reduce_range=find_device("host").reduce_range)(model, task.data)
    wanted = [("fp32", model, ("onnx", "tflite")), ("int8", small, ("onnx", "tflite"))]
    wanted += [("fp16", Float16()(model, task.data), ("tflite",))]
    return [
        export(changed, format_, OUT / f"parity-{name}-{format_}", force=True).path
        for name, changed, formats in wanted
        for format_ in formats
    ]


if __name__ == "__main__":
    main()
