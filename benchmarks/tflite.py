"""TFLite: how small, true and fast all-MiniLM-L6-v2 becomes for LiteRT, and the digits network beside its ONNX file.

    python benchmarks/tflite.py

MiniLM at 64 tokens and one thread, in turn with its own fp32 TFLite file and with the ONNX files of the same models;
judged on sentences that were never calibrated on. The digits network is the sample's, trained with its rounding in
place (recipe `qat`).
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import OUT, ROOT, Figure, Watch, in_turn, minilm, ratio, show, texts, times, versions
from tokenizers import Tokenizer

from edgepress.compress.data import Data, Score
from edgepress.compress.encoder import read_encoder
from edgepress.compress.mixed import Mixed
from edgepress.compress.packed import PackedInt8
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.recipe import find_recipe
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime import Artifact, load

MEGABYTES, COSINE, SPEED = 23.6, 0.998, 2.4
KILOBYTES = 100
TOKENS, SENTENCES = 64, 256  # of each kind of text; every other one may calibrate, the rest judges
CALIBRATED = ("docstrings", "licences")


def main() -> None:
    """Export, judge, time, print."""
    parser = argparse.ArgumentParser(description="TFLite: MiniLM and the digits network, beside their ONNX files.")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the timings in turn (40)")
    rounds, watch = parser.parse_args().rounds, Watch()
    model, data, scores = encoder()
    figures = []
    artifacts = {}
    for name, changed in models(model, data).items():
        for format_ in ("tflite", "onnx"):
            artifacts[name, format_] = export(changed, format_, OUT / f"minilm-{name}-{format_}", force=True)
    speeds = timed(artifacts, rounds)
    for (name, format_), artifact in artifacts.items():
        figures += encoded(name, format_, artifact, scores, speeds)
    title = f"all-MiniLM-L6-v2, {TOKENS} tokens, one thread; the digits network"
    show(title, [*figures, *digits()], [str(watch), versions("ai-edge-litert", "litert-torch")])


def encoder() -> tuple[Model, Data, dict[str, Score]]:
    """The model at 64 tokens, mixed text to calibrate on, and a score a kind of text."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = {}
        for kind, sentences in texts(SENTENCES).items():
            file = Path(folder) / f"{kind}.txt"
            file.write_text("\n".join(fitting(sentences)), encoding="utf-8")
            tasks[kind] = read_encoder(minilm(), file)
    halves = [list(tasks[kind].data.calibration) for kind in CALIBRATED]
    mixed = [batch for half in halves for batch in half[: len(half) // len(halves)]]
    model = replace(tasks["docstrings"].model, name="minilm", lengths={"sequence": (TOKENS,)})
    return model, Data(mixed), {kind: task.data.score for kind, task in tasks.items() if task.data.score}


def fitting(sentences: list[str]) -> list[str]:
    """Those of no more than 64 tokens."""
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [sentence for sentence in sentences if len(tokenizer.encode(sentence).ids) <= TOKENS]


def models(model: Model, data: Data) -> Mapping[str, Model]:
    """By name: as it came, int8 with a table in int8, and what is smaller."""
    blocks = WeightOnly(layers=("embedding",), symmetric=True, block=32)
    rows = replace(blocks, bits=8, block=512)
    dynamic, packed = DynamicInt8()(model, data), PackedInt8()(model, data)
    blocks4 = WeightOnly(symmetric=True, short_scales=True)
    mixed = Mixed(cosine=0.9965, dynamic=DynamicInt8(), weight_only=replace(blocks4, layers=("linear",)))
    return {
        "fp32": model,
        "int8": rows(dynamic, data),
        "int8-table4": blocks(dynamic, data),
        "packed-table4": blocks(packed, data),
        "blocks4": blocks4(model, data),
        "mixed-table4": mixed(blocks(model, data), data),  # the smallest that keeps .990
    }


def timed(artifacts: Mapping[tuple[str, str], Artifact], rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Seconds of a call with 64 tokens, all files in turn."""
    loaded = [load(artifact.path, threads=1) for artifact in artifacts.values()]
    ids = np.random.default_rng(0).integers(1000, 30000, (1, TOKENS))
    calls = [lambda m=m: m(input_ids=ids, attention_mask=np.ones_like(ids)) for m in loaded]
    return dict(zip(artifacts, in_turn(calls, rounds=rounds, block=5), strict=True))


def encoded(
    name: str,
    format_: str,
    artifact: Artifact,
    scores: Mapping[str, Score],
    speeds: Mapping[tuple[str, str], np.ndarray],
) -> Iterator[Figure]:
    """Size, cosines and speed of one file, the speed against fp32 in the same format."""
    model = load(artifact.path, threads=1)
    seen = {kind: score(model) for kind, score in scores.items()}
    worst = min(figures["worst_cosine"] for figures in seen.values())
    cosines = ", ".join(f"{kind} {figures['cosine']:.4f}" for kind, figures in seen.items())
    mean = min(figures["cosine"] for figures in seen.values())
    found = ratio(speeds["fp32", format_], speeds[name, format_])
    judged = (name, format_) == ("int8", "tflite")
    met = artifact.bytes / 1e6 <= MEGABYTES and mean >= COSINE and found.median >= SPEED
    reached = f"{artifact.bytes / 1e6:.2f} MB, {times(found)}, {1e3 * np.median(speeds[name, format_]):.1f} ms"
    target = f"<= {MEGABYTES} MB, >= {SPEED}x, cosine >= {COSINE}" if judged else ""
    yield Figure(
        f"{name}, {format_}", reached, target, met if judged else None, f"cosine: {cosines}; worst {worst:.4f}"
    )


def digits() -> Iterator[Figure]:
    """The sample's network after recipe `qat`, as both formats, on every test image."""
    sys.path.insert(0, str(ROOT / "samples" / "digits"))
    import task as sample

    task, images = sample.task(), sample.digits().test_images
    model = find_recipe("qat").targeting(find_device("host"), "tflite")(task.model, task.data)
    files = {
        format_: export(model, format_, OUT / f"digits-qat-{format_}", force=True) for format_ in ("tflite", "onnx")
    }
    given, expected = (load(file.path, threads=1)(image=images)["logits"].argmax(1) for file in files.values())
    size, same = files["tflite"].bytes / 1e3, int((given == expected).sum())
    assert task.data.score is not None
    figures = task.data.score(load(files["tflite"].path, threads=1))
    yield Figure(
        "digits, int8 from QAT",
        f"{size:.1f} kB, {same} of {len(images)} as in ONNX",
        f"<= {KILOBYTES} kB, all",
        size <= KILOBYTES and same == len(images),
        ", ".join(f"{name} {value:.4f}" for name, value in figures.items()),
    )


if __name__ == "__main__":
    main()
