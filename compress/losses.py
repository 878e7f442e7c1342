"""How far a student's outputs are from its teacher's: for logits, and for embeddings."""

from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(s/T)), the mean over the batch (Hinton et al. 2015). T² keeps the gradient's size.

    student, teacher: logits, [batch, ..., classes].
    """
    wanted = F.log_softmax(teacher / temperature, -1)
    found = F.log_softmax(student / temperature, -1)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(-1).mean()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos(s, t), the mean over the batch. student, teacher: embeddings, [batch, ...]."""
    return (1 - F.cosine_similarity(_rows(student), _rows(teacher), dim=1)).mean()


def length_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ (‖s‖ − ‖t‖)² / Σ ‖t‖² over the batch: what a cosine does not see. student, teacher: [batch, ...]."""
    mine, theirs = _rows(student).norm(dim=1), _rows(teacher).norm(dim=1)
    return (mine - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)
