"""Zeros that stay zero while a network trains on."""

import torch
from torch import nn

from .train import AfterStep


def keep_zeros(module: nn.Module) -> AfterStep:
    """A hook for `train` that puts back to 0 what is exactly 0 in the matrices and kernels of `module` now.

    >>> train(module, loss, data, Training(), who="qat", after_step=keep_zeros(module))
    """
    kept = {name: p.detach() != 0 for name, p in module.named_parameters() if p.ndim > 1}
    kept = {name: mask for name, mask in kept.items() if not mask.all()}

    def after_step(module: nn.Module, step: int, steps: int) -> None:
        with torch.no_grad():
            for name, mask in kept.items():
                parameter = module.get_parameter(name)
                parameter.mul_(mask.to(parameter.device))

    return after_step
