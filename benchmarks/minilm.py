"""A real text encoder, no training: how small, how true and how fast the recipe `encoder` makes all-MiniLM-L6-v2.

    python benchmarks/minilm.py

Calibrated on docstrings and licences, judged on other sentences of both, and on a kind of text that was never
calibrated on. The original in torch is the reference. Speed is taken at one thread, one sentence a call, in turn.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from _common import OUT, Figure, Watch, in_turn, minilm, ratio, show, texts, times
from tokenizers import Tokenizer

from edgepress.compress.data import Data, Score
from edgepress.compress.encoder import read_encoder
from edgepress.compress.recipe import find_recipe
from edgepress.devices.device import find_device
from edgepress.devices.measure import Ratio, measure, speed
from edgepress.export.formats import export
from edgepress.runtime import Artifact, load

MEGABYTES, COSINE, SPEED = 17.6, 0.992, 2.0
SENTENCES = 256  # of each kind; every other one may calibrate, the rest judges
CALIBRATED = ("docstrings", "licences")
LENGTHS = (16, 128)


def main() -> None:
    """Export, judge, time, print."""
    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2: size, fidelity and speed of the recipe encoder.")
    parser.add_argument("--rounds", type=int, default=20, help="rounds against plain ONNX Runtime (20)")
    rounds, watch = parser.parse_args().rounds, Watch()
    host = replace(find_device("host"), threads=1)
    fp32, small, scores = artifacts()
    figures = [size(small), *fidelities(fp32, small, scores)]
    for tokens in LENGTHS:
        inputs = sample(tokens)
        base, row = measure([fp32, small], host, inputs=inputs)
        assert base.timing is not None
        assert row.timing is not None
        how = f"runtime.bench, fp32 through the same runtime: {base.timing.p50:.1f} -> {row.timing.p50:.1f} ms"
        figures.append(faster(f"speed, {tokens} tokens", speed(row.timing, base.timing), how))
        figures.append(against_plain(tokens, fp32, small, inputs, rounds))
    show("all-MiniLM-L6-v2, recipe encoder", figures, [str(watch)])


def artifacts() -> tuple[Artifact, Artifact, dict[str, Score]]:
    """The original as fp32 ONNX, the recipe's result, and a score a kind of text."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = {}
        for kind, sentences in texts(SENTENCES).items():
            file = Path(folder) / f"{kind}.txt"
            file.write_text("\n".join(sentences), encoding="utf-8")
            tasks[kind] = read_encoder(minilm(), file)
    halves = [list(tasks[kind].data.calibration) for kind in CALIBRATED]
    mixed = [batch for half in halves for batch in half[: len(half) // len(halves)]]
    model = replace(tasks["docstrings"].model, name="minilm")
    recipe = find_recipe("encoder").targeting(find_device("host"))
    fp32 = export(model, "onnx", OUT / "minilm-fp32", force=True)
    small = export(recipe(model, Data(mixed)), "onnx", OUT / "minilm-encoder", force=True)
    return fp32, small, {kind: task.data.score for kind, task in tasks.items() if task.data.score}


def size(small: Artifact) -> Figure:
    reached = small.bytes / 1e6
    return Figure("model file", f"{reached:.2f} MB", f"<= {MEGABYTES} MB", reached <= MEGABYTES, "bytes on disk")


def fidelities(fp32: Artifact, small: Artifact, scores: dict[str, Score]) -> list[Figure]:
    """Mean and worst cosine with the torch original, one sentence a call, for each kind of text."""
    figures = []
    for artifact in (fp32, small):
        model = load(artifact.path)
        for kind, score in scores.items():
            seen = score(model)
            judged = artifact is small
            figures.append(
                Figure(
                    f"{artifact.name}, {kind}",
                    f"cosine {seen['cosine']:.4f}, worst {seen['worst_cosine']:.4f}",
                    f"mean >= {COSINE}" if judged else "",
                    seen["cosine"] >= COSINE if judged else None,
                    f"{SENTENCES // 2} unseen sentences; "
                    f"{'same kind as' if kind in CALIBRATED else 'never seen in'} calibration",
                )
            )
    return figures


def faster(name: str, reached: Ratio, how: str) -> Figure:
    return Figure(name, times(reached), f">= {SPEED}x", reached.median >= SPEED, how)


def against_plain(tokens: int, fp32: Artifact, small: Artifact, inputs: Path, rounds: int) -> Figure:
    """The same file pair, the fp32 one in a session as ONNX Runtime makes it by default, but for its one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain, model = onnxruntime.InferenceSession(fp32.model, options), load(small.path, threads=1)
    with np.load(inputs) as archive:
        feeds = dict(archive)
    slow, fast = in_turn([lambda: plain.run(None, feeds), lambda: model(**feeds)], rounds=rounds, block=10)
    how = f"fp32 with onnxruntime's own defaults: {1e3 * np.median(slow):.1f} -> {1e3 * np.median(fast):.1f} ms"
    return faster(f"speed, {tokens} tokens, plain", ratio(slow, fast), how)


def sample(tokens: int) -> Path:
    """An `.npz` with one sentence of exactly `tokens` tokens."""
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    tokenizer.no_padding()
    ids = np.array([tokenizer.encode(" ".join(texts(20)["docstrings"])).ids], np.int64)
    assert ids.shape == (1, tokens)
    path = OUT / f"tokens-{tokens}.npz"
    np.savez(path, input_ids=ids, attention_mask=np.ones_like(ids))
    return path


if __name__ == "__main__":
    main()
