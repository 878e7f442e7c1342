"""Gradual magnitude pruning: the zeros grow in number while the network learns to do without them.

    s_t = s_f + (s_i − s_f)·(1 − t/T)³,     s_t the share of zeros after step t of T

Zhu & Gupta 2017. After each step the smallest weights become 0, as many as the schedule says; a weight that was 0
grows back only where others are smaller by then. By default the model as it came is the teacher; no labels are needed.
"""

from dataclasses import asdict, dataclass, field

from torch import nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .data import Data
from .distill import Distill, teach
from .layers import with_layers
from .masks import keep_zeros
from .prune import MagnitudePrune
from .train import AfterStep

WHO = "gradual"


@dataclass(frozen=True)
class GradualPrune:
    """Prune by magnitude while training.

    `prune` holds the settings of the pass `magnitude`: a sparsity, its scope and its layers. The schedule starts at the
    share `initial` and reaches that sparsity after the share `until` of all steps; the others are left to recover.
    `distill` says how the network learns, as in the pass of that name.

    >>> GradualPrune(MagnitudePrune(sparsity=0.8))(model, data).history[-1].note
    '80.0 % of the weights of 37 layers are 0; they save bytes of a download, no time'
    """

    prune: MagnitudePrune = field(default_factory=MagnitudePrune)
    initial: float = 0.0
    until: float = 0.75
    distill: Distill = field(default_factory=Distill)

    def __post_init__(self) -> None:
        if self.prune.threshold is not None or self.prune.n is not None:
            raise UsageError(f"{WHO}: works up to a sparsity; name no threshold and no n:m")
        if not 0 <= self.initial <= self.prune.share:
            raise UsageError(f"{WHO}: initial = {self.initial}; expected a share from 0 to {self.prune.share}")
        if not 0 < self.until <= 1:
            raise UsageError(f"{WHO}: until = {self.until}; expected a share of the steps, as 0.75")
        if self.distill.student != "model":
            raise UsageError(f'{WHO}: distill.student = "own"; what is pruned is the model: put distill before')

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns a model without layers to prune unchanged.

        Raises DataError for training data that is missing or does not fit, UsageError for a pattern that fits no layer.
        """
        student = with_layers(model.module, {})
        if not self.prune.weights(student):
            return model
        teach(self.distill, model, student, data, who=WHO, after_step=self.after_step(student))
        return model.then(student, Step(WHO, asdict(self), self.prune.note(student)))

    def after_step(self, module: nn.Module) -> AfterStep:
        """The hook for `train` that zeroes weights of `module`; what is 0 now stays 0.

        It looks at the weights alone, so a run that was killed goes on as if it had not been.
        """
        zeros, weights = keep_zeros(module), self.prune.weights(module)

        def hook(learns: nn.Module, step: int, steps: int) -> None:
            zeros(learns, step, steps)
            ramp = max(round(self.until * steps), 1)
            self.prune.zero(weights, cubic(min(step, ramp), ramp, self.prune.share, self.initial))

        return hook


def cubic(step: int, steps: int, final: float, initial: float = 0.0) -> float:
    """The sparsity after `step` of `steps` steps: `s_f + (s_i − s_f)·(1 − t/T)³`, fast at first.

    >>> cubic(50, 100, 0.8)
    0.7
    """
    return final + (initial - final) * (1 - step / steps) ** 3
