"""Divergence: how far a compressed language model is from the original, token by token, on text that neither has seen.

    KL(p ‖ q) = Σ_v p_v·(log p_v − log q_v),   p = softmax(original's logits), q = softmax(those of what is judged)

On small models perplexity hardly moves, and falls for models that have become worse; KL and the first token do not lie.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..export.model import Model
from ..runtime.errors import DataError
from ..runtime.session import Session
from .data import Batch, Score
from .fidelity import run_batch

# Positions whose logits are in float64 at once: a vocabulary of 256,000 takes 65 MB then.
_ROWS = 32


def divergence(original: Model, windows: Sequence[Batch], output: str = "logits") -> Score:
    """A score in comparison with the original's logits on the same windows of tokens.

    - `top1`: the share of positions whose likeliest next token is the original's.
    - `kl`: the mean of KL(original ‖ judged) over all positions, in nats.
    - `perplexity`: e to the mean −log q of the tokens that do come next, in windows of 2 and more.

    A window is `{"input_ids": int64 [batch, sequence]}`, run by itself. The original is run again each time, one window
    at a time: the logits of all of them would take more memory than the model. Raises DataError where there is no
    window, where the original does not run on one, or its logits are not finite.
    """
    if not windows:
        raise DataError("divergence needs text to compare on and got none; bring --data")

    def score(session: Session) -> Mapping[str, float]:
        totals = np.zeros(3)
        positions = followed = 0
        for window in windows:
            reference = run_batch(original, window)[output]
            if not np.isfinite(reference).all():
                raise DataError(f"the original model gives NaN or infinity at {output!r}; check the model and the data")
            ids = torch.from_numpy(np.array(window["input_ids"]))
            judged = torch.from_numpy(np.array(session(**window)[output]))
            totals += _sums(torch.from_numpy(reference), judged, ids)
            positions, followed = positions + ids.numel(), followed + ids[:, 1:].numel()
        agreed, kl, surprise = totals.tolist()
        figures = {"top1": agreed / positions, "kl": kl / positions}
        return figures | ({"perplexity": float(np.exp(surprise / followed))} if followed else {})

    return score


def _sums(original: Tensor, judged: Tensor, ids: Tensor) -> np.ndarray:
    """Sums over all positions: likeliest tokens that agree, KL, −log q of the next token (where there is one).

    original, judged: logits [batch, sequence, vocabulary]; ids: int64 [batch, sequence].
    """
    following = F.pad(ids[:, 1:], (0, 1), value=-1).flatten()
    agreed = kl = surprise = 0.0
    rows = zip(*(part.split(_ROWS) for part in (original.flatten(0, 1), judged.flatten(0, 1), following)), strict=True)
    for theirs, mine, after in rows:
        agreed += float((theirs.argmax(-1) == mine.argmax(-1)).sum())
        p, q = F.log_softmax(theirs.double(), -1), F.log_softmax(mine.double(), -1)
        kl += float((p.exp() * (p - q)).sum())
        there = after >= 0
        surprise -= float(q[there].gather(1, after[there, None]).sum())
    return np.array([agreed, kl, surprise])
