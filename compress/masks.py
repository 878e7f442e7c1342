"""Keep zeros zero while weights are trained: the zeros of the weights are the mask.

    W ← W ∘ M,     M = [W₀ ≠ 0],     after each step of the optimizer

So no pass hands a mask to the next one, and no file holds one.
"""

from collections.abc import Callable

import torch
from torch import nn


def keep_zeros(module: nn.Module) -> Callable[[nn.Module, int, int], None]:
    """A hook for the end of each training step, which sets to 0 again what was 0 when the hook was made.

    It looks at parameters with two axes or more. One that is all zeros has not been pruned but not been trained yet,
    and stays free. Parameters are found by name: make the hook for the module that is trained, or for one like it.

    >>> train(module, loss, data, training, who="…", after_step=keep_zeros(module))
    """
    zeros = {name: parameter.detach() == 0 for name, parameter in module.named_parameters() if parameter.ndim >= 2}
    zeros = {name: mask for name, mask in zeros.items() if mask.any() and not mask.all()}

    def after_step(trained: nn.Module, step: int, steps: int) -> None:
        with torch.no_grad():
            for name, mask in zeros.items():
                trained.get_parameter(name)[mask] = 0

    return after_step
