"""The fast end of the curve: all-MiniLM-L6-v2 with five eighths of its neurons, distilled, int8, as TFLite.

    python benchmarks/fast.py            # a quarter of an hour on two cores

Cut and refitted, trained with its float self as the teacher on docstrings, quantized after that; judged on sentences of
other kinds. Timed at one thread and 64 tokens, in turn with fp32 in ONNX Runtime.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
from _common import OUT, Figure, Watch, in_turn, minilm, ratio, show, times
from _corpus import docstrings
from encoder_small import Telling
from tflite import TOKENS, encoder

from edgepress.compress.data import Data
from edgepress.compress.distill import Distill
from edgepress.compress.encoder import read_encoder
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.structured import StructuredPrune
from edgepress.compress.train import Training
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime import load

SPEED, COSINE = 4.0, 0.95


def main() -> None:
    """Cut, train, quantize, judge, time, print."""
    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2, cut, distilled and quantized, as TFLite and ONNX.")
    parser.add_argument("--neurons", type=float, default=0.375, help="the share to cut (0.375)")
    parser.add_argument("--steps", type=int, default=700, help="steps of the training (700)")
    options, watch = parser.parse_args(), Watch()
    model, data, scores = encoder()
    base = export(model, "onnx", OUT / "minilm-fp32-64", force=True)
    started = time.monotonic()
    changed = small(model, data, options.neurons, options.steps)
    minutes = (time.monotonic() - started) / 60
    figures = [Figure("cut, train, quantize", f"{minutes:.0f} min", "at most 30", minutes <= 30, "2 cores")]
    files = {kind: export(changed, kind, OUT / f"minilm-fast-{kind}", force=True) for kind in ("tflite", "onnx")}
    loaded = [load(artifact.path, threads=1) for artifact in (base, *files.values())]
    ids = np.random.default_rng(0).integers(1000, 30000, (1, TOKENS))
    calls = [lambda m=m: m(input_ids=ids, attention_mask=np.ones_like(ids)) for m in loaded]
    fp32, *taken = in_turn(calls, rounds=40, block=5)
    for (kind, file), session, seconds in zip(files.items(), loaded[1:], taken, strict=True):
        found = ratio(fp32, seconds)
        seen = {name: score(session)["cosine"] for name, score in scores.items()}
        figures += [
            Figure(f"{kind}, speed", times(found), f">= {SPEED}x", found.median >= SPEED, f"{file.bytes / 1e6:.2f} MB"),
            Figure(f"{kind}, cosine", f"{min(seen.values()):.4f}", f">= {COSINE}", min(seen.values()) >= COSINE,
                   ", ".join(f"{name} {value:.4f}" for name, value in seen.items())),
        ]  # fmt: skip
    show(f"all-MiniLM-L6-v2, {options.neurons:.1%} of its neurons cut, {TOKENS} tokens", figures, [str(watch)])


def small(model: Model, data: Data, share: float, steps: int) -> Model:
    """Cut, distilled on docstrings, int8 with a 4 bit table."""
    corpus = OUT / "docstrings.txt"
    if not corpus.exists():
        corpus.parent.mkdir(parents=True, exist_ok=True)
        corpus.write_text("\n".join(docstrings()), encoding="utf-8")
    lines = read_encoder(minilm(), corpus).data.training
    data = replace(data, training=lines, checkpoints=OUT / f"training-fast-{share}", tell=Telling())
    cut = StructuredPrune(neurons=share)(model, data)
    lesson = Distill(output=10.0, hidden=1.0, training=Training(epochs=8, steps=steps, rate=2e-4, warmup=0.05))
    taught = lesson(cut, data)
    table = WeightOnly(layers=("embedding",), symmetric=True, block=32)
    return table(DynamicInt8()(taught, data), data)


if __name__ == "__main__":
    main()
