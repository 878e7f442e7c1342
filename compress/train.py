"""The training loop that every pass which learns goes through: distillation, fine-tuning, quantization-aware training.

AdamW (Loshchilov & Hutter 2019), a linear warm-up, then half a cosine down to nothing. Reproducible: a seed decides all
chance, the order of the batches is a function of the epoch, and a run that was killed goes on from its last checkpoint
to the same weights.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError, TrainingError, UsageError
from . import checkpoint, ranks
from .data import Batch, Data

Batches = Sequence[Batch] | Callable[[int], Iterable[Batch]]
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
AfterStep = Callable[[nn.Module, int, int], None]
Validate = Callable[[nn.Module], float]

# Seconds between two checkpoints, and between two lines of progress.
_SAVE, _TELL = 20.0, 0.5


@dataclass(frozen=True)
class Training:
    """How to train.

    `epochs` over the training data, or fewer where `steps` ends it before. `rate` is the highest learning rate, reached
    after the share `warmup` of the steps. `accumulate` batches make one step. `clip` bounds the gradient's norm.
    `patience` epochs without a better validation end it (0: never); what was best is kept wherever there is a
    validation. `dropout` leaves dropout on; a model that is made smaller seldom wants it. `recompute` keeps no
    activations inside the layers of a list of layers and computes them again for the gradient (gradient
    checkpointing): less memory, a third more time. `seed` decides all chance.
    """

    epochs: int = 10
    steps: int = 0
    rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    accumulate: int = 1
    clip: float = 1.0
    patience: int = 0
    dropout: bool = False
    recompute: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.accumulate < 1 or min(self.steps, self.patience) < 0:
            raise UsageError(
                f"training: epochs = {self.epochs}, accumulate = {self.accumulate}, steps = {self.steps}, patience = "
                f"{self.patience}; expected at least 1, 1, 0 and 0"
            )
        if not (0 < self.rate < math.inf and 0 <= self.warmup < 1 and self.clip > 0 and self.weight_decay >= 0):
            raise UsageError(
                f"training: rate = {self.rate}, warmup = {self.warmup}, clip = {self.clip}, weight_decay = "
                f"{self.weight_decay}; expected above 0, within [0, 1), above 0 and at least 0"
            )

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step (0, 1, ...) out of `steps`.

        >>> [round(Training(rate=1.0, warmup=0.5).rate_at(step, 4), 2) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass
class State:
    """Where a training stands: all that a checkpoint holds beside the weights and the optimizer."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0
    best: float = -math.inf
    waited: int = 0
    done: bool = False
    kept: dict[str, Tensor] | None = None  # the weights of the best validation


@dataclass
class _Run:
    module: nn.Module
    loss: Loss
    data: Data
    training: Training
    who: str
    after_step: AfterStep | None
    validate: Validate | None
    length: int
    optimizer: torch.optim.Optimizer
    state: State = field(default_factory=State)
    identity: str = ""
    started: float = field(default_factory=time.monotonic)
    first: int = 0
    told: float = 0.0
    saved: float = field(default_factory=time.monotonic)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; the batches that are left over make one more."""
        return math.ceil(self.length / (self.training.accumulate * ranks.size()))

    @property
    def steps(self) -> int:
        whole = self.per_epoch * self.training.epochs
        return min(whole, self.training.steps) if self.training.steps else whole


def train(
    module: nn.Module,
    loss: Loss,
    data: Data,
    training: Training,
    *,
    who: str,
    after_step: AfterStep | None = None,
    validate: Validate | None = None,
) -> nn.Module:
    """Train `module`, which the caller owns, in place, and return it in the mode in which it came.

    `loss(module, batch)` gives a scalar for a batch of tensors, `label` among them where the data has labels.
    `after_step(module, steps_done, steps)` may change weights after each step, as to keep zeros at zero. `validate`
    gives a figure, higher is better; the weights of the best epoch are kept. Batches come from `data.training`, lines
    of progress go to `data.tell`, checkpoints into `data.checkpoints`. Under `torchrun` each process takes its share
    of every step's batches, and gradients are averaged.

    Raises DataError where there is no batch or one does not fit, TrainingError where the loss is not finite; the last
    good checkpoint stays.

    >>> train(student, lambda m, b: F.cross_entropy(m(b["image"]), b["label"]), data, Training(epochs=3), who="demo")
    """
    epochs = _epochs(data.training)
    length = sum(1 for _ in epochs(0))
    if not length:
        raise DataError(f"{who} needs training data and got no batch; bring --data or fill Data.training")
    with evaluating(module), torch.random.fork_rng(), recomputing(module, on=training.recompute):
        torch.manual_seed(training.seed)
        _set_modes(module, dropout=training.dropout)
        module.to(ranks.device())
        groups = _parameter_groups(module, training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=training.rate, foreach=True)
        run = _Run(module, loss, data, training, who, after_step, validate, length, optimizer)
        _resume(run, epochs)
        while not run.state.done:
            _epoch(run, epochs(run.state.epoch))
        if run.state.kept is not None:
            module.load_state_dict(run.state.kept)
    return module.cpu()


def validation(model: Model, data: Data) -> Validate | None:
    """The first figure of `data.validation`, as `train` wants it: of a module in the place of the model's own."""
    score = data.validation
    if score is None:
        return None

    def validate(module: nn.Module) -> float:
        held = replace(model, module=module)

        def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            outputs = held(**_tensors(inputs, model.name))
            return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

        return next(iter(score(session).values()))  # pyright: ignore[reportArgumentType] - a score only calls it

    return validate


def _epochs(batches: Batches) -> Callable[[int], Iterable[Batch]]:
    return batches if callable(batches) else lambda epoch: batches


def _parameter_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """What learns. Matrices and kernels decay; biases and the weights of normalizations do not."""
    learns = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learns if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in learns if p.ndim <= 1], "weight_decay": 0.0},
    ]


@contextmanager
def recomputing(module: nn.Module, *, on: bool) -> Iterator[None]:
    """Gradient checkpointing (Chen et al. 2016): each layer of a ModuleList keeps only its inputs for the gradient."""
    layers = [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part] if on else []
    for layer in layers:
        layer.forward = partial(recompute, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is found again


def _set_modes(module: nn.Module, *, dropout: bool) -> None:
    """Training mode; without dropout only batch normalizations train, for dropout hides in other modules too."""
    for part in module.modules():
        part.training = dropout or isinstance(part, nn.modules.batchnorm._BatchNorm)


def _epoch(run: _Run, batches: Iterable[Batch]) -> None:
    """What is left of an epoch; then validate, and decide whether another one follows."""
    state = run.state
    batches = islice(batches, state.batch, None)
    while state.step < run.steps and (step := list(islice(batches, run.training.accumulate * ranks.size()))):
        _step(run, step)
    score = _validated(run)
    state.epoch, state.batch = state.epoch + 1, 0
    patience = run.training.patience
    state.done = state.step >= run.steps or state.epoch >= run.training.epochs or 0 < patience <= state.waited
    _save(run, force=state.done)
    _tell(run, None, score, force=True)


def _step(run: _Run, batches: list[Batch]) -> None:
    """One step of the optimizer on the mean loss of these batches."""
    state, training = run.state, run.training
    mine = batches[ranks.rank() :: ranks.size()]
    total = 0.0
    for batch in mine:
        value = run.loss(run.module, _tensors(batch, run.who)) / len(batches)
        if not torch.isfinite(value):
            total = math.nan
            break
        value.backward()
        total += float(value.detach())
    total = ranks.total(total)
    if not math.isfinite(total):
        raise TrainingError(
            f"{run.who}: the loss is {total} in epoch {state.epoch + 1}, step {state.step + 1} of {run.steps}; lower "
            f"the rate (it is {training.rate:g}), or look for NaN in the data; the last checkpoint is kept"
        )
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    ranks.add_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, training.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = training.rate_at(state.step, run.steps)
    run.optimizer.step()
    run.optimizer.zero_grad()
    state.step, state.batch = state.step + 1, state.batch + len(batches)
    if run.after_step is not None:
        run.after_step(run.module, state.step, run.steps)
    _save(run)
    _tell(run, total, None)


def _tensors(batch: Batch, who: str) -> dict[str, Tensor]:
    for name, array in batch.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise DataError(f"{who}: a training batch holds NaN or infinite values in {name!r}; clean the data")
    return {name: torch.from_numpy(np.array(array)).to(ranks.device()) for name, array in batch.items()}


def _validated(run: _Run) -> float | None:
    """The figure of the validation, where there is one; the best weights so far are kept with it."""
    if run.validate is None:
        return None
    ranks.share_buffers(run.module)
    validate, state = run.validate, run.state
    with evaluating(run.module), torch.no_grad():
        score = ranks.from_first(lambda: validate(run.module))
    if score > state.best:
        state.best, state.waited = score, 0
        state.kept = {name: tensor.detach().clone() for name, tensor in run.module.state_dict().items()}
    else:
        state.waited += 1
    return score


def _resume(run: _Run, epochs: Callable[[int], Iterable[Batch]]) -> None:
    """Go on from the checkpoint of a run with the same settings, weights and data, where there is one."""
    if run.data.checkpoints is None:
        return
    run.identity = checkpoint.identity(run.who, run.training, run.module, islice(epochs(0), 4))
    folder, identity = run.data.checkpoints, run.identity
    held = ranks.from_first(lambda: checkpoint.read(folder, identity))
    if held is not None:
        run.state = State(**checkpoint.restore(held, run.module, run.optimizer))
        run.first = run.state.step
        if not run.state.done:
            run.data.tell(f"{run.who}: goes on after step {run.state.step} of {run.steps}")


def _save(run: _Run, *, force: bool = False) -> None:
    if run.data.checkpoints is None or not (force or time.monotonic() - run.saved > _SAVE):
        return
    if ranks.rank() == 0:
        checkpoint.save(run.data.checkpoints, run.identity, run.module, run.optimizer, vars(run.state))
    run.saved = time.monotonic()


def _tell(run: _Run, loss: float | None, score: float | None, *, force: bool = False) -> None:
    """`distill: epoch 2 of 8, step 120 of 640, loss 0.0123, 1:42 left`, now and then."""
    now = time.monotonic()
    if not (force or now - run.told > _TELL):
        return
    run.told = now
    state = run.state
    parts = [f"epoch {min(state.epoch + 1, run.training.epochs)} of {run.training.epochs}"]
    parts.append(f"step {state.step} of {run.steps}")
    parts += [f"loss {loss:.4g}"] if loss is not None else []
    parts += [f"validation {score:.4f}, best {state.best:.4f}"] if score is not None else []
    if state.step > run.first and not state.done:
        left = (now - run.started) / (state.step - run.first) * (run.steps - state.step)
        parts.append(f"{int(left) // 60}:{int(left) % 60:02} left")
    run.data.tell(f"{run.who}: {', '.join(parts)}")
