"""Refit a layer that lost inputs, so that it gives again what it gave before: closed form, no training.

With X' the inputs that are left [n, in'], Y what the whole model's layer gave there [n, out], W the layer as it is:

    ΔW = argmin ‖X'(W + ΔW)ᵀ − Y‖² + λ‖ΔW‖²      =>      ΔWᵀ = (X'ᵀX' + λI)⁻¹ X'ᵀ(Y − X'Wᵀ)

A bias is one more input that is always 1. Both products are summed over the batches in float64, so memory does not grow
with the data. Layers are refitted in the order in which they run, each on what the layers before it give *now*
(He et al. 2017; for transformers: Kwon et al. 2022). λ = E‖x'‖²/4 pulls towards the weights as they are: strongly where
there are few rows for many inputs, hardly where there are many.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.model import Model
from ..export.trace import evaluating
from .calibration import calibrate
from .data import Batch
from .importance import channels_last, samples

# λ in shares of the mean squared length of a row; of 0.001 to 1, measured on MiniLM with 128 and 512 lines of text.
RIDGE = 0.25


def solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """ΔW, float64 [out, in], from `gram` = XᵀX [in, in], `cross` = Xᵀ(Y − XWᵀ) [in, out] and λ = `ridge` > 0.

    >>> solve(x.T @ x, x.T @ (y - x @ w.T), 1e-9)  # what numpy.linalg.lstsq finds for x, y - x @ w.T
    """
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross).T


def refit(before: Model, after: nn.Module, rows: Mapping[str, Tensor], calibration: Iterable[Batch]) -> int:
    """Refit layers of `after`, in place, to what the same layers of `before` give; returns how many were.

    `rows[layer]` are the outputs of the layer that `after` still has, int64. Linear layers and plain Conv2d are
    refitted; others stay as they are. Raises DataError where there is no data, or the model does not run on it.
    """
    fitted = [name for name in order(before, rows) if _can(after.get_submodule(name))]
    for name in fitted:
        layer = after.get_submodule(name)
        gram, cross, count = moments(before, after, name, rows[name], calibration)
        ridge = RIDGE * float(gram.diagonal().sum()) / max(count, 1)
        if ridge <= 0:
            continue  # nothing but zeros arrives here
        change = solve(gram, cross, ridge).to(layer.get_parameter("weight").dtype)
        with torch.no_grad():
            weight = layer.get_parameter("weight")
            if layer.bias is not None:
                layer.get_parameter("bias").add_(change[:, -1])
                change = change[:, :-1]
            weight.add_(change.reshape(weight.shape))
    return len(fitted)


def moments(
    before: Model, after: nn.Module, name: str, rows: Tensor, calibration: Iterable[Batch]
) -> tuple[Tensor, Tensor, int]:
    """X'ᵀX' and X'ᵀ(Y − X'Wᵀ) of a layer over all batches, float64, and the number of rows."""
    layer, whole = after.get_submodule(name), before.module.get_submodule(name)
    width = layer.get_parameter("weight")[0].numel() + (layer.bias is not None)
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, len(rows), dtype=torch.float64)
    count = 0

    def run(inputs: Mapping[str, Tensor]) -> None:
        nonlocal count
        mask = inputs.get("attention_mask")
        wanted = [channels_last(y, whole)[..., rows] for _, y in _calls(before.module, whole, inputs)]
        for (x, y), target in zip(_calls(after, layer, inputs), wanted, strict=True):
            missing = target - channels_last(y, layer)
            for values, d in _rows(x, missing, layer, mask):
                if layer.bias is not None:
                    values = F.pad(values, (0, 1), value=1.0)
                values = values.double()
                count += len(values)
                gram.addmm_(values.T, values)
                cross.addmm_(values.T, d.double())

    with evaluating(before.module), evaluating(after):
        calibrate(run, before.example, calibration, "structured with refit")
    return gram, cross, count


def _calls(module: nn.Module, layer: nn.Module, inputs: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What a layer reads and gives, each time that the module runs it on these inputs."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> None:
        seen.append((args[0] if args else named["input"], y.clone()))  # a ReLU in place may come next

    with layer.register_forward_hook(hook, with_kwargs=True):
        module(**inputs)
    return seen


def _rows(x: Tensor, missing: Tensor, layer: nn.Module, mask: Tensor | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Inputs and what is missing, as rows; of a convolution sample by sample, for its windows overlap."""
    if not isinstance(layer, nn.Conv2d):
        yield samples(x, layer, mask), samples(missing, layer, mask)
        return
    for one, wanted in zip(x, missing, strict=True):
        windows = F.unfold(one[None], layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # pyright: ignore[reportArgumentType]
        yield windows[0].T, wanted.flatten(0, -2)


def _can(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def order(model: Model, names: Iterable[str]) -> list[str]:
    """These layers in the order in which the model first runs them on its example; without those that it never runs."""
    ran: dict[str, None] = {}
    with ExitStack() as hooks, evaluating(model.module):
        for name in names:
            layer = model.module.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(lambda *_, name=name: ran.setdefault(name)))
        model(**model.example)
    return list(ran)
