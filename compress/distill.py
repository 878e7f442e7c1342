"""Distillation: a student learns to say what its teacher says; with labels alone it is fine-tuning.

    L = a·T²·KL(softmax(t/T) ‖ softmax(s/T))   or   a·(1 − cos(s, t) + (‖s‖ − ‖t‖)²/‖t‖²)   outputs
      + h·mean_l ‖P_l H_l^s − H_l^t‖² / ‖H_l^t‖²                        hidden states; P_l learns where widths differ
      + r·mean_{M ∈ Q,K,V} KL(softmax(M^t M^tᵀ/√d) ‖ softmax(M^s M^sᵀ/√d))   attention relations of the last layer
      + c·CE(s, label)                                                  labels

Hinton et al. 2015; hidden states after TinyBERT (Jiao et al. 2020); relations after MiniLMv2 (Wang et al. 2021), whose
relation heads need not be the heads of either.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import DataError, ModelError, UsageError
from . import ranks, states
from .data import LABEL, Data
from .layers import with_layers
from .losses import cosine_distance, length_error, soft_cross_entropy
from .masks import keep_zeros
from .states import Watch
from .train import AfterStep, Training, train, validation


@dataclass(frozen=True)
class Distill:
    """Train a student on what the model, as it came, says to the training data.

    `student` is the model in hand, as pruning left it, or `own`: the module that the task brings as `Data.student`.
    `output`, `hidden`, `attention` and `labels` weigh the terms of the loss. `kind` says what the first output is:
    logits (soft labels at `temperature`), cosine (an embedding), or auto: logits where its name is that.
    `relation_heads` must divide the widths of queries, keys and values of both.
    """

    student: Literal["model", "own"] = "model"
    output: float = 1.0
    hidden: float = 0.0
    attention: float = 0.0
    labels: float = 0.0
    kind: Literal["auto", "logits", "cosine"] = "auto"
    temperature: float = 2.0
    relation_heads: int = 12
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("output", "hidden", "attention", "labels")}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise UsageError(f"distill: the loss weighs {weights}; expected none below 0, and one above it")
        if not self.temperature > 0 or self.relation_heads < 1:
            raise UsageError(
                f"distill: temperature = {self.temperature}, relation_heads = {self.relation_heads}; expected a "
                "temperature above 0 and at least 1 relation head"
            )

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs training data. What is 0 in a weight stays 0; the teacher is not changed.

        Returns a model that is as it came unchanged: it has nothing to learn from itself, unless labels weigh.
        Raises DataError without data, or labels where they weigh; ModelError for a student whose outputs do not fit
        the teacher's; UsageError where states shall be compared that one of the two has not.
        """
        if self.student == "model" and model.module is model.teacher.module and not self.labels:
            return model
        student = with_layers(_student(self.student, model, data), {})
        teach(self, model, student, data, who="distill", after_step=keep_zeros(student))
        note = f"{_count(student):,} weights learned from {_count(model.teacher.module):,}"
        return model.then(student, Step("distill", asdict(self), note))


def teach(settings: Distill, model: Model, student: nn.Module, data: Data, *, who: str, after_step: AfterStep) -> None:
    """Train `student`, which the caller owns, in place, on what `model.teacher` says; raises what a Distill does."""
    lesson = _Lesson(settings, model, student)
    check = validation(model, data)
    with lesson:
        train(
            lesson.learns, lesson.loss, data, settings.training, who=who, after_step=after_step,
            validate=None if check is None else lambda learns: check(student),
        )  # fmt: skip


@dataclass(frozen=True)
class FineTune:
    """Train the model in hand on labels: the same loop, and no teacher."""

    training: Training = field(default_factory=Training)

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs training data with labels. Raises DataError without either."""
        student = with_layers(model.module, {})

        def loss(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
            inputs, label = _split(batch, "finetune")
            return F.cross_entropy(_outputs(module(**inputs))[0], label)

        check = validation(model, data)
        train(student, loss, data, self.training, who="finetune", after_step=keep_zeros(student), validate=check)
        return model.then(student, Step("finetune", asdict(self), f"{self.training.epochs} epochs on labels"))


class _Lesson:
    """A student, its teacher, and how far the one is from the other."""

    def __init__(self, settings: Distill, model: Model, student: nn.Module) -> None:
        self.settings, self.outputs, self.student = settings, model.outputs, student
        self.teacher = with_layers(model.teacher.module, {}).eval().to(ranks.device())
        self.pairs = states.pairs(student, self.teacher) if settings.hidden or settings.attention else []
        self.relations: list[tuple[nn.Module, nn.Module]] = []
        if settings.attention:
            mine, theirs = self.pairs[-1]
            self.relations = list(zip(states.products(mine), states.products(theirs), strict=True))
        watched = [*self.pairs, *self.relations]
        self.watch = Watch([part for pair in watched for part in pair])
        self.hooks = ExitStack()
        # a list, so that what projects the states learns too; it is left behind afterwards
        self.learns = nn.ModuleList([student, nn.ModuleList(self._projections(model.example))])

    def __enter__(self) -> "_Lesson":
        self.hooks.enter_context(self.watch)
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.close()

    def _projections(self, example: Mapping[str, Tensor]) -> list[nn.Module]:
        """Identity where a pair's states are equally wide, else a matrix that learns (Jiao et al. 2020, eq. 8)."""
        if not self.settings.hidden:
            return []
        with self.watch, torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.settings.training.seed)
            self.student(**example)
            self.teacher.cpu()(**example)
            widths = [(states.width(self.watch[mine]), states.width(self.watch[theirs])) for mine, theirs in self.pairs]
            made: list[nn.Module] = [nn.Identity() if a == b else nn.Linear(a, b, bias=False) for a, b in widths]
        self.teacher.to(ranks.device())
        return made

    def loss(self, learns: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The lesson's loss for a batch, a scalar."""
        wanted = self.settings
        inputs, label = _split(batch, "distill", required=bool(wanted.labels))
        with torch.no_grad():
            theirs = _outputs(self.teacher(**inputs))
        mine = _outputs(self.student(**inputs))
        self._refuse_misfit(mine, theirs)
        total = mine[0].new_zeros(())
        if wanted.output:
            total = total + wanted.output * self._output_loss(mine[0], theirs[0])
        mask = states.token_mask(inputs)
        if wanted.hidden:
            assert isinstance(learns, nn.ModuleList)
            projections = learns[1].children()
            terms = [
                states.hidden_loss(self.watch[a], self.watch[b], project, mask)
                for (a, b), project in zip(self.pairs, projections, strict=True)
            ]
            total = total + wanted.hidden * torch.stack(terms).mean()
        if wanted.attention:
            terms = [
                states.relation_loss(self.watch[a], self.watch[b], wanted.relation_heads, mask)
                for a, b in self.relations
            ]
            total = total + wanted.attention * torch.stack(terms).mean()
        if wanted.labels:
            total = total + wanted.labels * F.cross_entropy(mine[0], label)
        return total

    def _output_loss(self, mine: Tensor, theirs: Tensor) -> Tensor:
        kind = self.settings.kind
        if kind == "logits" or (kind == "auto" and self.outputs[0] == "logits"):
            return soft_cross_entropy(mine, theirs, self.settings.temperature)
        return cosine_distance(mine, theirs) + length_error(mine, theirs)

    def _refuse_misfit(self, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        found, expected = ([list(output.shape) for output in outputs] for outputs in (mine, theirs))
        if found != expected:
            raise ModelError(f"distill: the student's outputs have the shapes {found}, its teacher's {expected}; "
                             "give it the same outputs")  # fmt: skip


def _student(kind: str, model: Model, data: Data) -> nn.Module:
    if kind == "model":
        return model.module
    if data.student is None:
        raise UsageError('distill: student = "own", and the task brings none; set Data.student to a module')
    return data.student


def _split(batch: Mapping[str, Tensor], who: str, *, required: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    """A batch's inputs, and its labels. Raises DataError where they are required and missing."""
    if required and LABEL not in batch:
        raise DataError(f"{who} needs the training batches' {LABEL!r}, int64 [batch]; they hold {', '.join(batch)}")
    return {name: tensor for name, tensor in batch.items() if name != LABEL}, batch.get(LABEL, torch.empty(0))


def _outputs(result: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (result,) if isinstance(result, Tensor) else result


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
