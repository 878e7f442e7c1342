"""What a student is judged by while it trains: its teacher's outputs on the same batch, or labels.

    L_logits = T²·KL(softmax(t/T) ‖ softmax(s/T)),   L_cosine = 1 − s·t / (‖s‖‖t‖) + ‖s − t‖² / ‖t‖²

s is the student's output, t the teacher's, T the temperature (Hinton, Vinyals & Dean, "Distilling the Knowledge in a
Neural Network", 2015).
"""

import copy
import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.model import Model
from ..runtime.errors import DataError, ModelError, UnknownName, UnsupportedError, UsageError
from . import ranks
from .train import Loss

LossKind = Literal["auto", "logits", "cosine", "labels"]

# The key of a training batch that is no input, and the output that holds a classifier's logits.
_LABEL, _LOGITS = "label", "logits"
_TINY = 1e-12


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`T²·KL(softmax(t/T) ‖ softmax(s/T))`, the mean over all but the last axis: 0 where both say the same.

    student, teacher: logits (..., classes), float32. T² keeps the gradient's size the same at every temperature.
    """
    said = F.log_softmax(student / temperature, -1).flatten(0, -2)
    wanted = F.log_softmax(teacher / temperature, -1).flatten(0, -2)
    return F.kl_div(said, wanted, reduction="batchmean", log_target=True) * temperature**2


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """`1 − s·t / (‖s‖‖t‖)` along the last axis, the mean over the others; both (..., width), float32."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """`‖s − t‖² / ‖t‖²` over whole tensors: what a cosine does not see, the length."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(_TINY)


def output_loss(model: Model, kind: LossKind = "auto", temperature: float = 2.0) -> Loss:
    """The loss for `train`, of a student with the inputs and outputs of `model`, whose teacher is `model.teacher`.

    `logits` is soft_cross_entropy for every output, `cosine` is cosine_distance + relative_error; `auto` takes the
    first for an output of the name "logits", the second for others. What is not floating teaches nothing. `labels` has
    no teacher: the cross entropy of the first output with the batch's `label`.

    Raises UsageError for settings that cannot be right, UnsupportedError where no output is floating; the loss itself
    raises DataError for a batch that does not fit, ModelError where student and teacher give other shapes.

    >>> train(student, output_loss(model), data, Training(), who="qat")
    """
    if kind not in get_args(LossKind):
        raise UnknownName("loss", kind, get_args(LossKind))
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature = {temperature}; expected a number above 0, as 2")
    if kind == "labels":
        return lambda student, batch: F.cross_entropy(_outputs(model, student, _inputs(model, batch))[0], _label(batch))
    teacher = copy.deepcopy(model.teacher.module).to(ranks.device()).eval()
    logits = [kind == "logits" or (kind == "auto" and name == _LOGITS) for name in model.outputs]

    def loss(student: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = _inputs(model, batch)
        with torch.no_grad():
            taught = _outputs(model, teacher, inputs)
        said = _outputs(model, student, inputs)
        pairs = zip(said, taught, logits, strict=True)
        parts = [_part(model, s, t, temperature if soft else None) for s, t, soft in pairs if t.is_floating_point()]
        if not parts:
            raise UnsupportedError(f"{model.name} has no floating output, so its teacher has nothing to teach")
        return torch.stack(parts).sum()

    return loss


def _part(model: Model, student: Tensor, teacher: Tensor, temperature: float | None) -> Tensor:
    """The loss of one output: over logits where there is a temperature."""
    if student.shape != teacher.shape:
        shapes = list(student.shape), list(teacher.shape)
        raise ModelError(f"{model.name}: the student gives {shapes[0]}, its teacher {shapes[1]}; expected the same")
    if temperature is not None:
        return soft_cross_entropy(student, teacher, temperature)
    return cosine_distance(student, teacher) + relative_error(student, teacher)


def _inputs(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the module is called with: the batch without its label."""
    if set(batch) - {_LABEL} != set(model.example) - {_LABEL}:
        raise DataError(f"a training batch has the inputs {sorted(batch)}; {model.name} takes {sorted(model.example)}")
    return {name: batch[name] for name in model.example}


def _label(batch: Mapping[str, Tensor]) -> Tensor:
    if _LABEL not in batch:
        raise DataError(
            f"a training batch has the inputs {sorted(batch)} and no {_LABEL!r}; the loss `labels` wants it"
        )
    return batch[_LABEL]


def _outputs(model: Model, module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    result = module(**inputs)
    values = tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(values) != len(model.outputs):
        raise ModelError(f"{model.name}: a module gives {len(values)} outputs; expected {list(model.outputs)}")
    return values
