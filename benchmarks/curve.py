"""Size, speed and cosine of all-MiniLM-L6-v2 in one picture: our recipes, and what other tools make of the same file.

    python benchmarks/curve.py           # the trained recipes first: encoder_small.py --recipe NAME

All files are judged on the same unseen sentences (licences and READMEs) and timed in one run, in turn, at one thread,
one sentence a call. The picture is `out/benchmarks/curve.svg`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _common import OUT, Figure, Watch, minilm, show, texts, times
from _peers import QUANTIZERS, quantized
from encoder_small import JUDGED
from minilm import LENGTHS, sample
from tokenizers import Tokenizer

from edgepress.compress.data import Score
from edgepress.compress.encoder import read_encoder
from edgepress.compress.recipe import find_recipe
from edgepress.devices.device import find_device
from edgepress.devices.measure import Ratio, measure, speed
from edgepress.export.formats import export
from edgepress.runtime import Artifact, load, read_artifact
from edgepress.runtime.errors import EngineError

UNTRAINED, TRAINED = ("encoder",), ("encoder-small", "minilm-small")
KINDS = ("licences", "readmes")
CALIBRATED, TOKENS = 128, 64  # what a peer calibrates on


@dataclass(frozen=True)
class Point:
    """A file: megabytes, mean cosine by kind of text, speed by length."""

    name: str
    megabytes: float
    cosine: dict[str, float]
    speed: dict[int, Ratio]


def main() -> None:
    """Make what is not there and needs no training, judge and time all, print and draw."""
    parser = argparse.ArgumentParser(description="Size, speed and cosine of all-MiniLM-L6-v2, ours and others'.")
    parser.add_argument("--peers", nargs="*", default=list(QUANTIZERS), help=f"{', '.join(QUANTIZERS)} (all)")
    peers, watch = parser.parse_args().peers, Watch()
    files, notes = artifacts(peers)
    points = judged(files, scores())
    show("all-MiniLM-L6-v2: size, speed, cosine", [line(point) for point in points], [*notes, str(watch)])
    draw(points, OUT / "curve.svg")
    print(f"drawn: {OUT / 'curve.svg'}")


def artifacts(peers: Sequence[str]) -> tuple[dict[str, Artifact], list[str]]:
    """The files by name, fp32 first, and what is missing and why."""
    corpus = OUT / "calibration.txt"
    corpus.parent.mkdir(parents=True, exist_ok=True)
    corpus.write_text("\n".join(texts(CALIBRATED)["docstrings"]), encoding="utf-8")
    task, notes = read_encoder(minilm(), corpus), []
    model = replace(task.model, name="minilm")
    found = {"fp32": export(model, "onnx", OUT / "minilm-fp32", force=True)}
    for name in UNTRAINED:
        recipe = find_recipe(name).targeting(find_device("host"))
        found[name] = export(recipe(model, task.data), "onnx", OUT / f"minilm-{name}", force=True)
    for name in TRAINED:
        if (OUT / f"minilm-{name}").is_dir():
            found[name] = read_artifact(OUT / f"minilm-{name}")
        else:
            notes.append(f"{name} is not trained yet: python benchmarks/encoder_small.py --recipe {name}")
    calibration = OUT / "calibration.npz"
    np.savez(calibration, **padded(corpus.read_text(encoding="utf-8").splitlines()))  # pyright: ignore[reportArgumentType]
    for name in peers:
        made, trouble = quantized(name, found["fp32"].model, calibration, OUT / "peers" / f"{name}.onnx", "transformer")
        try:
            if made is not None:
                load(made, threads=1)
                found[name] = read_artifact(made)
        except EngineError as error:  # a file that its own maker did not try
            trouble = f"{name} writes a file that does not open: {error}"
        if name not in found:
            notes.append(trouble)
    return found, notes


def padded(lines: Sequence[str]) -> dict[str, np.ndarray]:
    """The lines as a peer's calibration wants them: one length."""
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    coded = tokenizer.encode_batch(list(lines))
    return {
        "input_ids": np.array([text.ids for text in coded], np.int64),
        "attention_mask": np.array([text.attention_mask for text in coded], np.int64),
    }


def scores() -> dict[str, Score]:
    """A score a kind of text that nothing was trained or calibrated on."""
    found = {}
    for kind in KINDS:
        file = OUT / f"{kind}.txt"
        file.write_text("\n".join(texts(2 * JUDGED)[kind]), encoding="utf-8")
        score = read_encoder(minilm(), file).data.score
        assert score is not None
        found[kind] = score
    return found


def judged(files: dict[str, Artifact], judges: dict[str, Score]) -> list[Point]:
    """Every file's cosine, and all timed in turn."""
    cosine = {
        name: {kind: score(load(file.path))["cosine"] for kind, score in judges.items()} for name, file in files.items()
    }
    host = replace(find_device("host"), threads=1)
    faster: dict[str, dict[int, Ratio]] = {name: {} for name in files}
    for tokens in LENGTHS:
        rows = measure(list(files.values()), host, inputs=sample(tokens))
        for name, row in zip(files, rows, strict=True):
            assert row.timing is not None
            assert rows[0].timing is not None
            faster[name][tokens] = speed(row.timing, rows[0].timing)
    return [Point(name, file.bytes / 1e6, cosine[name], faster[name]) for name, file in files.items()]


def line(point: Point) -> Figure:
    words = [f"{point.megabytes:.2f} MB"]
    words += [f"{times(found)} at {tokens} tokens" for tokens, found in point.speed.items()]
    cosines = ", ".join(f"{kind} {value:.4f}" for kind, value in point.cosine.items())
    return Figure(f"{'peer: ' if point.name in QUANTIZERS else ''}{point.name}", ", ".join(words), how=cosines)


def draw(points: Sequence[Point], path: Path) -> None:
    """Megabytes against speed at the longer sample; the cosine stands beside each point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tokens = LENGTHS[-1]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for point in points:
        peer = point.name in QUANTIZERS
        found = point.speed[tokens]
        error = [[found.median - found.low], [found.high - found.median]]
        axes.errorbar(point.megabytes, found.median, error, fmt="s" if peer else "o", capsize=3,
                      color="#767676" if peer else "#0b6e99")  # fmt: skip
        axes.annotate(f"{point.name}  {np.mean(list(point.cosine.values())):.3f}", (point.megabytes, found.median),
                      xytext=(7, 5), textcoords="offset points", fontsize=9)  # fmt: skip
    axes.set(xscale="log", xlabel="megabytes on disk", ylabel=f"times as fast as fp32 ({tokens} tokens, 1 thread)",
             title="all-MiniLM-L6-v2: size, speed, and mean cosine to the original (unseen text)")  # fmt: skip
    axes.set_xticks([10, 20, 40, 90], ["10", "20", "40", "90"])
    axes.grid(alpha=0.3)
    axes.margins(x=0.15, y=0.12)
    figure.savefig(path)
    figure.savefig(path.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
