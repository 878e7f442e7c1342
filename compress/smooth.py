"""Move the outliers of activations into the weights: `x Wᵀ = (x / s)(W·s)ᵀ`, s per input channel.

    s_j = max|x_j|^α / max|W_j|^(1−α)

SmoothQuant (Xiao et al., ICML 2023, eq. 4). One scale for a whole activation tensor wastes its integers on a few large
channels; divided by s, all channels use them. Layers that read the same tensor share one s, so x is divided once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError
from .calibration import calibrate
from .data import Batch

_TINY = 1e-5


def smoothing_scales(
    model: Model, layers: Mapping[str, nn.Linear], calibration: Iterable[Batch], alpha: float
) -> dict[str, Tensor]:
    """One `s` of shape (in,) for each layer, float32; layers that read the same tensor get the same object.

    A channel that was 0 in all of the data keeps s = 1: nothing is known of it, and a tiny s would blow up whatever
    comes later. Raises DataError where no batch was given, and where a layer reads a NaN or an infinity.
    """
    peaks, groups = _input_peaks(model, layers, calibration)
    scales: dict[str, Tensor] = {}
    for names in groups:
        weight = torch.stack([layers[name].weight.detach().abs().amax(0) for name in names]).amax(0)
        x = peaks[names[0]]
        if not torch.isfinite(x).all():
            raise DataError(f"{names[0]} reads a NaN or an infinity during calibration; check the data and the model")
        s = (x**alpha / weight.clamp_min(_TINY) ** (1 - alpha)).clamp_min(_TINY)
        scales.update(dict.fromkeys(names, torch.where(x > 0, s, 1.0)))
    return scales


def _input_peaks(
    model: Model, layers: Mapping[str, nn.Linear], calibration: Iterable[Batch]
) -> tuple[dict[str, Tensor], list[list[str]]]:
    """max|x_j| of each layer's input over all batches, and the layers grouped by the tensor that they read."""
    peaks: dict[str, Tensor] = {}
    readers: dict[int, list[str]] = {}
    kept: list[Tensor] = []  # an id is only good while its tensor lives

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = args[0] if args else named["input"]
            kept.append(x)
            readers.setdefault(id(x), []).append(name)
            peak = x.detach().abs().flatten(0, -2).amax(0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return hook

    groups: list[list[str]] = []

    def run(inputs: Mapping[str, Tensor]) -> None:
        model.module(**inputs)
        groups[:] = readers.values()
        readers.clear()
        kept.clear()

    hooks = [layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with evaluating(model.module):
            calibrate(run, model.example, calibration, "dynamic_int8 with smooth > 0")
    finally:
        for hook in hooks:
            hook.remove()
    return peaks, disjoint(groups, layers)


def disjoint(groups: list[list[str]], layers: Collection[str]) -> list[list[str]]:
    """Each layer once; one that was never run, or more than once in a call, stands alone."""
    count = {name: sum(group.count(name) for group in groups) for name in layers}
    alone = [[name] for name in layers if count[name] > 1]
    together = [[name for name in group if count[name] == 1] for group in groups]
    return [group for group in together if group] + alone
