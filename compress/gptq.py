"""GPTQ: round a matrix column by column, and let the columns that are left make up for what was lost.

    min_Q ‖(W − Q) X‖²,   with C = E[x xᵀ] and C⁻¹ = UᵀU (U upper triangular), for each column j:
    e_j = (W_j − Q_j)/U_jj,   W_k ← W_k − e_j·U_jk  for k > j

Frantar et al., ICLR 2023, with the columns in their order. The scales of a block are found when its first column's turn
comes, for the weights as they are by then.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .weights import block_scales, finite

# A column (rows,) and its place in its block -> the column, rounded.
Round = Callable[[Tensor, int], Tensor]
# A block as its turn comes, (rows, block) -> how to round its columns.
Grid = Callable[[Tensor], Round]


def gptq(weight: Tensor, moments: Tensor, grid: Grid, *, block: int, damping: float = 0.01) -> Tensor:
    """The weight with every column on its block's grid, so that its product with the inputs changes least.

    weight: float32 (rows, width); moments: C, float64 (width, width); `grid(part)` looks at the columns of a block,
    (rows, block), and returns a function that rounds column j of it, (rows,). `damping` is the share of C's mean
    diagonal that is added to the diagonal. A weight of exactly 0 was pruned and stays 0 (as in SparseGPT, Frantar &
    Alistarh 2023). Returns float32 (rows, width).

    >>> gptq(w, c, lambda part: lambda column, j: (column / s).round() * s, block=32)
    """
    w, result = weight.detach().float().clone(), torch.empty_like(weight, dtype=torch.float32)
    upper, zeros = factor(moments, damping), weight.detach() == 0
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        part, inner = w[:, start:stop], upper[start:stop, start:stop]
        rounded = grid(part.clone())
        errors = torch.empty_like(part)
        for j in range(stop - start):
            result[:, start + j] = torch.where(zeros[:, start + j], 0.0, rounded(part[:, j].clone(), j))
            errors[:, j] = (part[:, j] - result[:, start + j]) / inner[j, j]
            part[:, j:] -= torch.outer(errors[:, j], inner[j, j:])
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return result


def gptq_blocks(
    weight: Tensor, moments: Tensor, *, bits: int, block: int, symmetric: bool, short_scales: bool = False,
    damping: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Blocks of `bits` along the rows: the weight on its grid, float32, and the grid's scales and zero points.

    The scales are those of least squared error, as `block_scales` finds them, for what each block's weights are when
    its turn comes; each of shape (rows, blocks). `with_scales` makes the same integers of the three.

    >>> weight, scale, zero = gptq_blocks(w, c, bits=4, block=32, symmetric=False)
    """
    scales: list[Tensor] = []
    zeros: list[Tensor] = []

    def grid(part: Tensor) -> Round:
        scale, zero = block_scales(part, bits=bits, block=block, symmetric=symmetric, short_scales=short_scales)
        scales.append(scale)
        zeros.extend([] if zero is None else [zero])
        s, z = scale[:, 0], float(1 << (bits - 1)) if zero is None else zero[:, 0].float()
        return lambda column, j: ((column / s).round() + z).clamp(0, (1 << bits) - 1).sub(z) * s

    found = gptq(finite(weight), moments, grid, block=block, damping=damping)
    return found, torch.cat(scales, 1), torch.cat(zeros, 1) if zeros else None


def factor(moments: Tensor, damping: float) -> Tensor:
    """U of C⁻¹ = UᵀU, float32; an input that was always 0 stands for itself."""
    c = moments.double().clone()
    diagonal = c.diagonal()
    diagonal += damping * diagonal.mean()
    diagonal[diagonal == 0] = 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(c))
    return torch.linalg.cholesky(inverse, upper=True).float()
