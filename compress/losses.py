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
    return (1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)).mean()
