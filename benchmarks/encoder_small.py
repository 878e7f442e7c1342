"""A real text encoder, trained with its own float self as the teacher: the recipe `encoder-small` on all-MiniLM-L6-v2.

    python benchmarks/encoder_small.py            # ten minutes on two cores

Trained on docstrings, remarks and loose words; judged on licences and READMEs, other kinds of text, none of which was
trained or calibrated on. Speed is taken at one thread, one sentence a call, in turn with fp32.
"""

import argparse
import time
from dataclasses import replace

from _common import OUT, Figure, Watch, minilm, show, texts, times
from _corpus import mixed
from minilm import LENGTHS, sample

from edgepress.compress.encoder import read_encoder
from edgepress.compress.recipe import find_recipe
from edgepress.devices.device import find_device
from edgepress.devices.measure import measure, speed
from edgepress.export.formats import export
from edgepress.runtime import load

MEGABYTES, COSINE, SPEED = 13.0, 0.990, 2.2
JUDGED = 256


def main() -> None:
    """Train, export, judge, time, print."""
    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2: size, fidelity and speed of a trained recipe.")
    parser.add_argument("--recipe", default="encoder-small", help="a recipe's name or file (encoder-small)")
    name, watch = parser.parse_args().recipe, Watch()
    OUT.mkdir(parents=True, exist_ok=True)
    corpus = OUT / "mixed.txt"
    corpus.write_text("\n".join(mixed()), encoding="utf-8")
    task, host = read_encoder(minilm(), corpus), replace(find_device("host"), threads=1)
    model = replace(task.model, name="minilm")
    fp32 = export(model, "onnx", OUT / "minilm-fp32", force=True)
    started = time.monotonic()
    recipe = find_recipe(name).targeting(host)
    data = replace(task.data, validation=None, checkpoints=OUT / f"training-{recipe.name}", tell=Telling())
    small = export(recipe(model, data), "onnx", OUT / f"minilm-{recipe.name}", force=True)
    minutes = (time.monotonic() - started) / 60
    figures = [Figure("all passes", f"{minutes:.0f} min", "at most 30", minutes <= 30, "2 cores, see the load below")]
    reached = small.bytes / 1e6
    figures.append(Figure("model file", f"{reached:.2f} MB", f"<= {MEGABYTES} MB", reached <= MEGABYTES, "on disk"))
    for kind in ("licences", "readmes"):
        file = OUT / f"{kind}.txt"
        file.write_text("\n".join(texts(2 * JUDGED)[kind]), encoding="utf-8")
        score = read_encoder(minilm(), file).data.score
        assert score is not None
        seen = score(load(small.path))
        words = f"cosine {seen['cosine']:.4f}, worst {seen['worst_cosine']:.4f}"
        figures.append(Figure(kind, words, f"mean >= {COSINE}", seen["cosine"] >= COSINE, "unseen, another kind"))
    for tokens in LENGTHS:
        base, row = measure([fp32, small], host, inputs=sample(tokens))
        assert base.timing is not None
        assert row.timing is not None
        found = speed(row.timing, base.timing)
        how = f"1 thread: {base.timing.p50:.1f} -> {row.timing.p50:.1f} ms"
        figures.append(Figure(f"speed, {tokens} tokens", times(found), f">= {SPEED}x", found.median >= SPEED, how))
    show(f"all-MiniLM-L6-v2, recipe {recipe.name}", figures, [str(watch)])


class Telling:
    """Prints a line of progress a minute."""

    def __init__(self) -> None:
        self.told = 0.0

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.told > 60:
            self.told = time.monotonic()
            print(text, flush=True)


if __name__ == "__main__":
    main()
