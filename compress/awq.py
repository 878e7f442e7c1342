"""AWQ: weights whose inputs are large are made larger before they are rounded, so that they lose less.

    x Wᵀ = (x / s) (W·s)ᵀ,    s_j = (E|x_j|)^α,    α = argmin E‖(W − Q(W·s)/s) x‖²,   α in {0, 1/20, …, 19/20}

Lin et al., MLSys 2024. A common factor of s moves no weight to another integer; it is chosen so that the largest and
the smallest s are as far from 1. At α = 0 nothing is scaled: the result is never worse than rounding on the same data.
Layers that read the same tensor share one s: x is divided once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A weight (rows, width) -> what it is after rounding, of the same shape.
Rounded = Callable[[Tensor], Tensor]

STEPS = 20


def awq_scale(weights: Sequence[Tensor], moments: Tensor, magnitudes: Tensor, rounded: Rounded) -> Tensor | None:
    """The s of least output error, float32 (in,), for weights (rows, in) that read the same inputs; None for s = 1.

    moments: E[x xᵀ], (in, in); magnitudes: E|x|, (in,). An input that was always 0 keeps s = 1.

    >>> awq_scale([w], c, m, lambda weight: in_blocks(weight, bits=4, block=32, symmetric=True).dequantize())
    """
    best, least = None, sum(output_error(w, rounded(w), moments) for w in weights)
    for step in range(1, STEPS):
        s = powers(magnitudes, step / STEPS)
        error = sum(output_error(w, rounded(w * s) / s, moments) for w in weights)
        if error < least:
            best, least = s, error
    return best


def powers(magnitudes: Tensor, alpha: float) -> Tensor:
    """`m^α / √(max m^α · min m^α)`, float32 (in,); 1 where m is 0."""
    ran = magnitudes > 0
    if not ran.any():
        return torch.ones_like(magnitudes, dtype=torch.float32)
    s = magnitudes.double() ** alpha
    s = s / (s[ran].amax() * s[ran].amin()).sqrt()
    return torch.where(ran, s, 1.0).float()


def output_error(weight: Tensor, other: Tensor, moments: Tensor) -> float:
    """`E‖(W − Ŵ) x‖²`, which is `tr((W − Ŵ) C (W − Ŵ)ᵀ)`."""
    difference = (weight - other).float()
    return float(((difference @ moments.float()) * difference).sum())
