"""A real text encoder, trained with its own float self as the teacher: the recipe `encoder-small` on all-MiniLM-L6-v2.

    python benchmarks/encoder_small.py            # ten minutes on two cores

Trained on docstrings of the packages in this environment; judged on licences and READMEs, another kind of text, none of
which was trained or calibrated on. Speed is taken at one thread, one sentence a call, in turn with fp32.
"""

import argparse
import ast
import importlib.util
import random
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from _common import OUT, Figure, Watch, minilm, sentences, show, texts, times
from minilm import LENGTHS, sample

from edgepress.compress.encoder import read_encoder
from edgepress.compress.recipe import find_recipe
from edgepress.devices.device import find_device
from edgepress.devices.measure import measure, speed
from edgepress.export.formats import export
from edgepress.runtime import load

MEGABYTES, COSINE, SPEED = 13.0, 0.990, 2.2
PACKAGES = ("torch", "numpy", "sklearn", "transformers", "scipy")
LINES, JUDGED = 40_000, 256


def main() -> None:
    """Train, export, judge, time, print."""
    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2: size, fidelity and speed of a trained recipe.")
    parser.add_argument("--recipe", default="encoder-small", help="a recipe's name or file (encoder-small)")
    name, watch = parser.parse_args().recipe, Watch()
    OUT.mkdir(parents=True, exist_ok=True)
    corpus = OUT / "docstrings.txt"
    corpus.write_text("\n".join(docstrings()), encoding="utf-8")
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


def docstrings() -> list[str]:
    """Sentences from the docstrings of the standard library and of some packages, each once, in a fixed order."""
    site = Path(sysconfig.get_path("purelib"))
    found = sorted({sentence for text in _docstrings(site) for sentence in sentences(text, range(20, 400))})
    random.Random(0).shuffle(found)
    return found[:LINES]


def _docstrings(site: Path) -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in library.rglob("*.py") if site not in path.parents]
    for package in PACKAGES:
        lies = folder(package)
        files += [] if lies is None else lies.rglob("*.py")
    for path in sorted(files):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # files that test Python's own parser
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def folder(package: str) -> Path | None:
    """Where a package lies; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


if __name__ == "__main__":
    main()
