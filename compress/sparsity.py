"""Which weights of one matrix become 0, and what the others become: Wanda and SparseGPT.

    Wanda       S_ij = |W_ij|·‖X_j‖₂; in each row the smallest go                               (Sun et al. 2023, eq. 1)
    SparseGPT   H = XᵀX + λI, H⁻¹ = UᵀU (U upper triangular); column by column, as in GPTQ:
                S_ij = W_ij²/U_jj², the smallest of a block of columns go, and for each one that goes
                e_i = W_ij/U_jj,   W_ik ← W_ik − e_i·U_jk for k ≥ j         (Frantar & Alistarh 2023, algorithm 1)

With a pattern n:m, n of every m weights in a row along the inputs stay, in either method.
"""

import torch
from torch import Tensor

from .gptq import factor

# n of m weights stay, or the share that goes.
Pattern = tuple[int, int]


def wanda(weight: Tensor, norms: Tensor, goes: float | Pattern) -> Tensor:
    """The weight with zeros where S is smallest in each row. weight: [out, in]; norms: ‖X_j‖₂ of each input, [in].

    A share goes exactly: round(share·in) of each row; of equal ones the first. What was 0 goes first.

    >>> wanda(torch.tensor([[3.0, -1.0]]), torch.tensor([1.0, 9.0]), 0.5)
    tensor([[ 0., -1.]])
    """
    scores = weight.abs() * norms.to(weight.dtype)
    if isinstance(goes, tuple):
        gone = smallest_but(scores, goes)
    else:
        gone = torch.zeros_like(weight, dtype=torch.bool)
        gone.scatter_(1, scores.argsort(dim=1, stable=True)[:, : round(goes * weight.shape[1])], True)
    return torch.where(gone, 0.0, weight)


def sparsegpt(
    weight: Tensor, moments: Tensor, goes: float | Pattern, *, block: int = 128, damping: float = 0.01
) -> Tensor:
    """The weight with zeros, the others moved so that its product with the inputs changes least; float32 [out, in].

    moments: E[x xᵀ], float64 [in, in]; λ is `damping` times its mean diagonal. Of each `block` of columns
    round(share·weights) go, all rows together; of equal ones the first. What was 0 stays 0, and counts.
    """
    w, upper, zeros = weight.detach().float().clone(), factor(moments, damping), weight.detach() == 0
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        part, inner, held = w[:, start:stop], upper[start:stop, start:stop], zeros[:, start:stop]
        errors = torch.zeros_like(part)
        gone = held.clone() if isinstance(goes, tuple) else _smallest(_saliency(part, inner, held), goes) | held
        for j in range(stop - start):
            if isinstance(goes, tuple) and j % goes[1] == 0:
                ahead = slice(j, j + goes[1])
                scores = _saliency(part[:, ahead], inner[ahead, ahead], held[:, ahead])
                gone[:, ahead] |= smallest_but(scores, goes)
            errors[:, j] = torch.where(gone[:, j], part[:, j], 0.0) / inner[j, j]
            part[:, j:] -= torch.outer(errors[:, j], inner[j, j:])
        part[gone] = 0.0
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return w


def smallest_but(scores: Tensor, pattern: Pattern) -> Tensor:
    """True for all but the n largest scores of every m in a row; of equal ones the last. scores: [rows, k·m]."""
    n, m = pattern
    blocks = scores.unflatten(1, (-1, m))
    order = blocks.argsort(dim=-1, descending=True, stable=True)
    gone = torch.zeros_like(blocks, dtype=torch.bool)
    return gone.scatter_(-1, order[..., n:], True).flatten(1)


def _smallest(scores: Tensor, share: float) -> Tensor:
    """True for round(share·number) of the smallest scores, all rows together; of equal ones the first."""
    gone = torch.zeros(scores.numel(), dtype=torch.bool)
    gone[scores.flatten().argsort(dim=0, stable=True)[: round(share * scores.numel())]] = True
    return gone.view(scores.shape)


def _saliency(part: Tensor, upper: Tensor, zeros: Tensor) -> Tensor:
    """W²/U_jj²; less than any other where a weight was 0 from the start."""
    return (part / upper.diagonal()).square().masked_fill(zeros, -1.0)
