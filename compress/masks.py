"""Zeros that stay: what a pass has pruned is its own mask, and later passes keep it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def keep_zeros(module: nn.Module) -> Callable[[nn.Module, int, int], None]:
    """A hook for `train`: after each step, what is 0 now in a weight of `module` (not in a bias) is 0 again.

    >>> train(student, loss, data, training, who="finetune", after_step=keep_zeros(student))
    """
    masks: list[tuple[nn.Parameter, Tensor]] = []
    for parameter in module.parameters():
        if parameter.ndim > 1 and parameter.requires_grad and not bool(parameter.all()) and bool(parameter.any()):
            masks.append((parameter, parameter.detach() != 0))

    def hook(module: nn.Module, step: int, steps: int) -> None:
        with torch.no_grad():
            for parameter, mask in masks:
                parameter.mul_(mask.to(parameter.device))

    return hook
