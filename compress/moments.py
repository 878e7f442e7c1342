"""Second moments of what layers read: `C = E[x xᵀ]`, streamed in float64, with one batch in memory at a time.

- Linear:     x is (in,), one for each position.
- Conv2d:     x is the patch under the kernel, (in·kh·kw,), in the order of the weight.
- Embedding:  x is the one-hot vector of an id, so C is diagonal; its diagonal, the share of each id, is what is kept.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError
from .calibration import calibrate
from .data import Batch


def second_moments(
    model: Model, layers: Mapping[str, nn.Module], calibration: Iterable[Batch], who: str
) -> dict[str, Tensor]:
    """C of each layer's input over all batches, float64: (n, n), or (ids,) for an Embedding; 0 where it never ran.

    A Conv2d must not be grouped: its groups read different patches. Raises DataError where no batch was given (`who`
    begins the sentence), and where a layer reads a NaN or an infinity.

    >>> second_moments(model, {"head": head}, data.calibration, "lowrank")["head"].shape
    torch.Size([64, 64])
    """
    sums = {name: _zeros(layer) for name, layer in layers.items()}
    counts = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = args[0] if args else named["input"]
            counts[name] += _add(sums[name], layer, x)

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with evaluating(model.module):
            calibrate(lambda inputs: model.module(**inputs), model.example, calibration, who)
    finally:
        for hook in hooks:
            hook.remove()
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise DataError(f"{name} reads a NaN or an infinity during calibration; check the data and the model")
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def _zeros(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Embedding):
        return torch.zeros(layer.num_embeddings, dtype=torch.float64)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    n = layer.weight[0].numel()
    return torch.zeros(n, n, dtype=torch.float64)


def _add(total: Tensor, layer: nn.Module, x: Tensor) -> int:
    """Add the input's `Σ x xᵀ` to the total, in place; returns the number of vectors in it."""
    if isinstance(layer, nn.Embedding):
        total += torch.bincount(x.flatten(), minlength=len(total))
        return x.numel()
    rows = _patches(layer, x) if isinstance(layer, nn.Conv2d) else x.flatten(0, -2)
    rows = rows.double()
    total += rows.T @ rows
    return len(rows)


def _patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(positions, in·kh·kw): what a convolution reads is what one with the identity for a weight writes."""
    n = layer.weight[0].numel()
    identity = torch.eye(n, dtype=x.dtype).view(n, *layer.weight.shape[1:])
    return F.conv2d(x, identity, None, layer.stride, layer.padding, layer.dilation).movedim(-3, -1).reshape(-1, n)
