"""Mixed bits under a byte budget, for GGUF: each tensor in the llama.cpp type that it can bear.

    min Σ_g KL_g(t_g)      over a type t_g for each group of tensors g,      Σ_g bytes_g(t_g) <= budget

KL_g(t) is measured: how far the next token's distribution moves, KL(float32 || group g alone at t), in the mean over
calibration tokens. climb.py chooses. A group is a tensor, or its like in neighbouring blocks where there are many.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from ..export.gguf import Module, raw
from ..export.gguf_architectures import find_architecture
from ..export.gguf_quantize import quantize
from ..export.gguf_write import part_names
from ..export.model import Model
from ..runtime.errors import DataError, UsageError
from .climb import Choice, climb, ladder
from .data import Batch, Data
from .imatrix import checked_inner

# Types of about 2.6, 3.4, 4.5, 5.5, 6.6 and 8.5 bits, and a file type that lets a tensor have each.
CANDIDATES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_BASE = "Q4_K_S"
_GROUPS, _BATCHES = 64, 1


def mixed_types(model: Model, data: Data, importance: Mapping[str, np.ndarray], megabytes: float) -> dict[str, str]:
    """The type of each tensor, by its name in GGUF.

    Raises UsageError where not even the smallest types fit, DataError without calibration data.
    """
    batches = list(islice(data.calibration, _BATCHES))
    if not batches:
        raise DataError("ggml: megabytes wants text to measure on; bring --data texts.txt")
    with tempfile.TemporaryDirectory() as beside:
        source = raw(model, Path(beside))
        whole = gguf.GGUFReader(source).tensors
        groups = grouped([tensor.name for tensor in whole if _is_matrix(tensor)])
        fixed = source.stat().st_size - sum(int(tensor.n_bytes) for tensor in whole if _is_matrix(tensor))
        ladders: dict[str, list[Choice]] = {group: [] for group in groups}
        for kind, read in _rounded(source, Path(beside), groups, importance):
            for number, (group, drop) in enumerate(_drops(model, groups, read, batches), 1):
                data.tell(f"ggml, {kind}: group {number} of {len(groups)}, {group}")
                size = sum(int(read[name].n_bytes) for name in groups[group])
                ladders[group].append(Choice(kind, size, drop, model.module))
    room = megabytes * 1e6 - fixed
    steps = {group: ladder(choices) for group, choices in ladders.items()}
    if (least := sum(choices[0].bytes for choices in steps.values())) > room:
        needed = (least + fixed) / 1e6
        raise UsageError(f"ggml: megabytes = {megabytes}; the smallest types take {needed:.2f}; allow more")
    *_, chosen = climb(steps, room)
    return {name: chosen[group].name for group, members in groups.items() for name in members}


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Tensors that are changed together: each alone, or like ones of neighbouring blocks where there are many."""
    parts = [name.split(".") for name in names]
    kinds = {".".join(part[2:]) for part in parts if part[0] == "blk"}
    blocks = 1 + max((int(part[1]) for part in parts if part[0] == "blk"), default=0)
    buckets = max(1, min(blocks, _GROUPS // max(len(kinds), 1)))
    found: dict[str, list[str]] = {}
    for name, part in zip(names, parts, strict=True):
        if part[0] != "blk":
            found[name] = [name]
            continue
        first = int(part[1]) * buckets // blocks
        found.setdefault(f"{'.'.join(part[2:])} {first + 1}/{buckets}", []).append(name)
    return found


def _is_matrix(tensor: gguf.ReaderTensor) -> bool:
    """What llama.cpp quantizes: no vectors, and no tables that are added."""
    return len([n for n in tensor.shape if n > 1]) == 2 and not tensor.name.startswith(("position_embd", "token_types"))


def _rounded(
    source: Path, beside: Path, groups: Mapping[str, Sequence[str]], importance: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, dict[str, gguf.ReaderTensor]]]:
    """All tensors in each of the types, one type after the other, as llama.cpp rounds them."""
    names = [name for members in groups.values() for name in members]
    for kind in CANDIDATES:
        path = beside / f"{kind}.gguf"
        quantize(source, path, _BASE, types=dict.fromkeys(names, kind), importance=importance)
        yield kind, {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        path.unlink()


def _drops(
    model: Model, groups: Mapping[str, Sequence[str]], read: Mapping[str, gguf.ReaderTensor], batches: Sequence[Batch]
) -> Iterator[tuple[str, float]]:
    """Each group's divergence where it alone is rounded."""
    inner = checked_inner(model)
    config = Module(inner).config
    architecture = find_architecture(config)
    sources = {name: source for source, name in part_names(Module(inner), architecture).items()}
    wanted = [_logs(model, batch) for batch in batches]
    for group, members in groups.items():
        weights = {}
        for name in members:
            rows = torch.arange(len(inner.get_parameter(sources[name])), dtype=torch.float32)[:, None]
            order = rows if config["model_type"] == "gpt2" else architecture.changed(sources[name], rows, config)
            rounded = torch.from_numpy(gguf.dequantize(read[name].data, read[name].tensor_type))
            weights[sources[name]] = rounded[order[:, 0].long().argsort()]
        with _swapped(inner, weights):
            found = [_divergence(logs, _logs(model, batch)) for logs, batch in zip(wanted, batches, strict=True)]
        yield group, float(np.mean(found))


@contextmanager
def _swapped(inner: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The module with other weights meanwhile."""
    held = {name: inner.get_parameter(name).data for name in weights}
    for name, weight in weights.items():
        inner.get_parameter(name).data = weight
    try:
        yield
    finally:
        for name, weight in held.items():
            inner.get_parameter(name).data = weight


def _logs(model: Model, batch: Mapping[str, np.ndarray]) -> Tensor:
    """log p of each next token, float32 (tokens, vocabulary)."""
    outputs = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    return next(iter(outputs.values())).flatten(0, -2).log_softmax(-1)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())
