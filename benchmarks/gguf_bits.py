"""What mixed bits and the importance matrix are worth: KL against float32 at equal bytes, on text that neither saw.

    python samples/tinyllm/train.py out/tinyllm     # once: ten minutes
    python benchmarks/gguf_bits.py

For each plain type: the file as llama.cpp makes it, the same with an importance matrix, and the pass `ggml` with
`megabytes` set to the plain file's size. All are judged from the file, through llama.cpp. Then, a type at a time, what
the matrix does to the error that it is meant to make small, Σ I_j (W − Ŵ)², with I from text that it was not made of.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from _common import Figure, Watch, show, versions
from _llamas import has_model, no_model, options, tinyllm_option

from edgepress.compress.data import Data
from edgepress.compress.decoder import read_decoder
from edgepress.compress.ggml_types import GgmlTypes
from edgepress.compress.imatrix import importance_matrix
from edgepress.compress.source import Task
from edgepress.export.formats import export
from edgepress.export.gguf import raw
from edgepress.export.gguf_quantize import quantize
from edgepress.export.model import Model
from edgepress.runtime.artifact import Artifact
from edgepress.runtime.errors import UnsupportedError
from edgepress.runtime.session import load

PLAIN = ("Q4_K_M", "Q3_K_M", "Q2_K")
LOW = ("Q4_0", "Q4_K_S", "Q4_K_M", "IQ4_XS", "IQ4_NL", "Q3_K_S", "Q3_K_M", "IQ3_S", "Q2_K")
NEEDY = ("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
TIMES = 0.8


def main() -> None:
    """Make the files, judge them, print."""
    parser = options("Mixed bits and the importance matrix on the sample's small Llama.")
    tinyllm_option(parser)
    settings, watch = parser.parse_args(), Watch()
    if not has_model(settings.tinyllm):
        show("Mixed bits", [], [no_model(settings.tinyllm)])
        return
    task = read_decoder(settings.tinyllm, settings.tinyllm / "texts.txt")
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        show("Mixed bits at equal bytes: 4,096 unseen tokens of the tinyllm", mixed(task, Path(folder)))
        figures = errors(task, settings.tinyllm, Path(folder))
    about = f"{watch} {versions('llama-cpp-python', 'gguf')}."
    show("Σ I (W − Ŵ)², with the importance matrix over without", figures, [about])


def mixed(task: Task, folder: Path) -> list[Figure]:
    """A file of each plain type in three ways, and two ratios."""
    floats = judged(task, None, folder / "F32")
    figures = [Figure("F32", words(*floats))]
    for kind in PLAIN:
        plain = judged(task, GgmlTypes(kind, importance=False), folder / kind)
        weighed = judged(task, GgmlTypes(kind), folder / f"{kind}-matrix")
        own = judged(task, GgmlTypes(kind, megabytes=plain[0].bytes / 1e6), folder / f"{kind}-mixed")
        figures += [Figure(kind, words(*plain)), Figure(f"{kind}, importance matrix", words(*weighed)),
                    Figure(f"mixed, no larger than {kind}", words(*own), how=types(own[0]))]  # fmt: skip
        for name, other in (("plain", plain), ("with the matrix", weighed)):
            reached = own[1]["kl"] / other[1]["kl"]
            met = reached <= TIMES and own[0].bytes <= plain[0].bytes
            figures.append(Figure(f"KL, mixed over {kind} {name}", f"{reached:.2f}x", f"<= {TIMES}x", met))
    return figures


def judged(task: Task, step: Callable[[Model, Data], Model] | None, out: Path) -> tuple[Artifact, Mapping[str, float]]:
    model = task.model if step is None else step(task.model, task.data)
    artifact = export(model, "gguf", out)
    assert task.data.score is not None
    return artifact, task.data.score(load(artifact.path, threads=1))


def words(artifact: Artifact, score: Mapping[str, float]) -> str:
    kl, top1, perplexity = score["kl"], 100 * score["top1"], score["perplexity"]
    return f"{artifact.bytes / 1e6:.3f} MB, KL {kl:.5f}, top-1 {top1:.2f} %, perplexity {perplexity:.3f}"


def types(artifact: Artifact) -> str:
    """How many bits of each type there are: `Q4_K 61 %, Q6_K 30 %`."""
    sizes: dict[str, int] = {}
    for tensor in gguf.GGUFReader(artifact.model).tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
    total = sum(sizes.values())
    return ", ".join(f"{name} {size / total:.0%}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))


def errors(task: Task, model: Path, folder: Path) -> list[Figure]:
    """For each type of 4 bits or fewer what the matrix does; and which types refuse to do without."""
    batches = [read_decoder(model, half).data.calibration for half in halves(model / "texts.txt", folder)]
    known, unseen = (importance_matrix(task.model, each) for each in batches)
    source, figures = raw(task.model, folder), []
    weights = {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(source).tensors}
    for kind in LOW:
        without, with_ = folder / f"{kind}-0.gguf", folder / f"{kind}-1.gguf"
        before, after = quantize(source, without, kind), quantize(source, with_, kind, importance=known)
        same = [one.name for one, other in zip(before, after, strict=True) if one.type == other.type]
        names = [name for name in same if name in known]
        ratios = {}
        for which, importance in (("unseen", unseen), ("known", known)):
            old, new = (error(path, weights, importance, names) for path in (without, with_))
            ratios[which] = new / old
        how = f"{len(names)} of {len(known)} tensors have one type in both; on its own text {ratios['known']:.3f}x"
        figures.append(Figure(kind, f"{ratios['unseen']:.3f}x", "< 1x", ratios["unseen"] < 1, how))
    for kind in NEEDY:
        figures.append(Figure(kind, without_matrix(source, folder / "needy.gguf", kind)))
    return figures


def halves(texts: Path, folder: Path) -> list[Path]:
    """The text in two files."""
    lines = texts.read_text(encoding="utf-8").splitlines()
    paths = [folder / "first.txt", folder / "second.txt"]
    for path, part in zip(paths, (lines[::2], lines[1::2]), strict=True):
        path.write_text("\n".join(part), encoding="utf-8")
    return paths


def error(
    path: Path, weights: Mapping[str, np.ndarray], importance: Mapping[str, np.ndarray], names: list[str]
) -> float:
    """Σ I_j (W_j − Ŵ_j)² over the named tensors."""
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    rounded = {name: gguf.dequantize(read[name].data, read[name].tensor_type) for name in names}
    return sum(float((importance[name] * np.square(weights[name] - rounded[name])).sum()) for name in names)


def without_matrix(source: Path, target: Path, kind: str) -> str:
    """Whether a type can do without."""
    try:
        quantize(source, target, kind)
    except UnsupportedError:
        return "refused without the matrix"
    return "made without the matrix"


if __name__ == "__main__":
    main()
