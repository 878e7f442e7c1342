"""Is a GGUF file what the official converter makes, and does it compute what transformers computes?

    python benchmarks/gguf_parity.py --llama-cpp FOLDER

Of all-MiniLM-L6-v2 and of the sample's small Llama, in float32. FOLDER is llama.cpp's source; without it nothing is
held against its converter. The logits come from the file through our runtime, keys and values in float32.
"""

import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from _common import Figure, Watch, minilm, show, versions
from _common import texts as sentences
from _llamas import (
    NO_CONVERTER,
    convert,
    has_converter,
    has_model,
    no_model,
    options,
    source_option,
    tinyllm_option,
)

from edgepress.compress.gguf_folder import convert as ours
from edgepress.compress.source import read_source
from edgepress.export.model import Model
from edgepress.runtime.session import LoadedModel, load

LARGEST = 1e-3
WINDOWS, LENGTH, LINES = 32, 128, 128


def main() -> None:
    """Convert both ways, compare, print."""
    parser = options("GGUF files beside the official converter's, and beside transformers.")
    source_option(parser)
    tinyllm_option(parser)
    settings, watch = parser.parse_args(), Watch()
    folders = {"MiniLM": minilm()}
    notes = []
    if has_model(settings.tinyllm):
        folders["tinyllm"] = settings.tinyllm
    else:
        notes.append(no_model(settings.tinyllm))
    if not has_converter(settings.llama_cpp):
        notes.append(NO_CONVERTER)
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in folders.items():
            artifact, _ = ours(folder, Path(scratch) / name, "F32", None, tell=lambda text: None)
            own = artifact.model
            if has_converter(settings.llama_cpp):
                official = Path(scratch) / f"{name}.gguf"
                convert(settings.llama_cpp, folder, official, "F32", pre="" if name == "MiniLM" else "llama-bpe")
                figures.append(identical(name, own, official))
            figures += (embeddings if name == "MiniLM" else logits)(
                read_source(str(folder)).model, load(artifact.path, threads=1), folder
            )
    about = f"{watch} {versions('llama-cpp-python', 'gguf', 'transformers')}."
    show("GGUF in float32", figures, [about, *notes])


def identical(name: str, own: Path, official: Path) -> Figure:
    """Names, types, shapes and bytes of all tensors."""
    found, wanted = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (own, official))
    same = [key for key in wanted if key in found and _same(found[key], wanted[key])]
    met = len(same) == len(wanted) == len(found)
    words = f"{len(same)} of {len(wanted)}" + (f", and {len(found)} in ours" if len(found) != len(wanted) else "")
    return Figure(f"{name}: tensors byte-identical with the official", words, "all", met, "name, type, shape, bytes")


def _same(one: gguf.ReaderTensor, other: gguf.ReaderTensor) -> bool:
    alike = one.tensor_type == other.tensor_type and one.shape.tolist() == other.shape.tolist()
    return alike and one.data.tobytes() == other.data.tobytes()


def logits(model: Model, session: LoadedModel, folder: Path) -> list[Figure]:
    """The likeliest next token, and how far its logits are off."""
    from tokenizers import Tokenizer

    text = (folder / "texts.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[: WINDOWS * LENGTH]
    largest, agreed, total = 0.0, 0, 0
    for window in np.array(ids, np.int64).reshape(-1, 1, LENGTH):
        wanted = model(input_ids=torch.from_numpy(window))["logits"].numpy()
        found = session(input_ids=window)["logits"]
        largest = max(largest, float(np.abs(wanted - found).max()))
        agreed += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        total += window.size
    how = f"{WINDOWS} windows of {LENGTH} tokens"
    return [
        Figure("tinyllm: largest difference of a logit", f"{largest:.1e}", f"<= {LARGEST}", largest <= LARGEST, how),
        Figure("tinyllm: likeliest token", f"{agreed} of {total}", "all", agreed == total, how),
    ]


def embeddings(model: Model, session: LoadedModel, folder: Path) -> list[Figure]:
    """The worst cosine of a sentence."""
    from tokenizers import Tokenizer

    coder, worst = Tokenizer.from_file(str(folder / "tokenizer.json")), 1.0
    coder.no_padding()
    for line in sentences(LINES)["docstrings"]:
        ids = np.array([coder.encode(line).ids[:LENGTH]], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        wanted = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})["sentence_embedding"]
        worst = min(worst, float((wanted.numpy() * session(**inputs)["sentence_embedding"]).sum()))
    return [
        Figure("MiniLM: worst cosine with transformers", f"{worst:.7f}", how=f"{LINES} sentences, both of length 1")
    ]


if __name__ == "__main__":
    main()
