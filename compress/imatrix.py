"""The importance matrix of llama.cpp: how large the inputs of each column of a weight are.

    I_j = 1/n Σ_i x_ij²      over the n inputs x that a Linear sees on calibration data

An error of column j then counts I_j times: `Σ_j I_j (W_j − Ŵ_j)²` is what llama.cpp's rounding makes small. A table of
tokens is looked up and has none, but for one that also writes the logits.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..export.gguf import Module, inner_module
from ..export.gguf_architectures import find_architecture
from ..export.gguf_write import part_names
from ..export.model import Model
from ..runtime.errors import DataError, UnsupportedError
from .data import Batch

_HEAD, _TABLE = "lm_head", "token_embd.weight"


def importance_matrix(model: Model, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Mean squared input of each column, float32 (columns,), by the tensor's name in GGUF.

    The batches are walked once, and no more of them is kept than a vector a layer. Raises UnsupportedError where the
    module is none of transformers', DataError where there is no batch.

    >>> sorted(importance_matrix(task.model, task.data.calibration))[0]
    'blk.0.attn_k.weight'
    """
    inner = checked_inner(model)
    names = part_names(Module(inner), find_architecture(Module(inner).config))
    layers = dict(_layers(inner, names))
    sums = {name: torch.zeros(layer.weight.shape[1], dtype=torch.float64) for name, layer in layers.items()}
    counts = dict.fromkeys(layers, 0)

    def hook(name: str):
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double()
            sums[name] += rows.square().sum(0)
            counts[name] += len(rows)

        return see

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    finally:
        for handle in handles:
            handle.remove()
    if not all(counts.values()):
        raise DataError("there is no text to tell which inputs matter; bring --data texts.txt")
    return {name: (total / counts[name]).float().numpy() for name, total in sums.items()}


def checked_inner(model: Model) -> nn.Module:
    """transformers' own module within the task's. Raises UnsupportedError where there is none."""
    inner = inner_module(model.module)
    if inner is None:
        raise UnsupportedError(f"{model.name} is none of transformers' models, which alone are written as GGUF")
    return inner


def _layers(inner: nn.Module, names: Mapping[str, str]) -> Iterator[tuple[str, nn.Linear]]:
    """The Linear layers, by their weight's name in GGUF."""
    for name, layer in inner.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if f"{name}.weight" in names:
            yield names[f"{name}.weight"], layer
        elif name == _HEAD:  # tied: the table writes the logits
            yield _TABLE, layer
