"""Quantization-aware training: the network learns while all that will be integers is rounded already.

    min_W E_x[ L(f(x; Q(W)), f_teacher(x)) ],   gradients straight through Q

Jacob et al., CVPR 2018; by default the float model as it came is the teacher, so no labels are needed. What is rounded,
and how, is decided by the very passes that quantize without training: `prepare` puts their rounding layers in place,
`settle` leaves the integers that those layers rounded to. So what was trained is what is exported.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from torch import fx, nn

from ..export.model import Model
from ..export.quantized import BlockLinear, DynamicLinear, PackedLinear
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from . import rounding
from .data import Data
from .distill import Distill, teach
from .fake import FakeBlockEmbedding, FakeBlockLinear, settle
from .masks import keep_zeros
from .mixed import Mixed
from .packed import PackedInt8
from .quantize import DynamicInt8, WeightOnly
from .static import StaticInt8
from .train import AfterStep, Training

# The scales of blocks are searched at the start and at the end of each of these parts of a training but the last.
_PARTS = 4

_INTEGERS = (DynamicLinear, PackedLinear, BlockLinear)


@dataclass(frozen=True)
class Qat:
    """Train for what `static`, `dynamic`, `packed`, `weight_only` or `mixed` will round, and leave the integers.

    Each of the five holds the settings of the pass of that name (`static_int8`, `dynamic_int8`, `packed_int8`,
    `weight_only`, `mixed`). `static` stands alone; of the others, what one leaves is the next one's. `distill` says
    how the network learns: its loss and its training, as in the pass of that name. Static ranges stay as they were
    calibrated, batch normalizations are folded before the training, weights of 0 stay 0.

    >>> Qat(dynamic=DynamicInt8(), weight_only=WeightOnly(layers=("embedding",)))(model, data)
    """

    static: StaticInt8 | None = None
    dynamic: DynamicInt8 | None = None
    packed: PackedInt8 | None = None
    weight_only: WeightOnly | None = None
    mixed: Mixed | None = None
    distill: Distill = field(default_factory=lambda: Distill(training=Training(epochs=5, rate=1e-4)))

    def __post_init__(self) -> None:
        if not self._passes:
            raise UsageError(
                "qat: trains for a quantization and has none; add static, dynamic, packed, weight_only or mixed"
            )
        if self.static is not None and len(self._passes) > 1:
            raise UsageError("qat: static goes with no other quantization; leave the others out")
        if self.distill.student != "model":
            raise UsageError(
                'qat: distill.student = "own"; quantization-aware training is of the model: put distill before'
            )

    @property
    def _passes(self) -> Sequence[StaticInt8 | DynamicInt8 | PackedInt8 | WeightOnly | Mixed]:
        steps = (self.static, self.dynamic, self.packed, self.weight_only, self.mixed)
        return [step for step in steps if step is not None]

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where there is nothing to quantize.

        Raises UnsupportedError for a model whose linear layers or activations are integers already, DataError for
        calibration or training data that is missing or does not fit, TrainingError where the loss is not finite.
        """
        _refuse_integers(model)
        student, notes = replace(model, module=copy.deepcopy(model.module)), []
        for step in self._passes:
            prepared = step.prepare(student, data)
            if prepared is not None:
                student = replace(student, module=prepared)
                notes.append(step.note(prepared))
        if not notes:
            return model
        module = student.module
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        teach(self.distill, model, module, data, who="qat", after_step=_after_step(module))
        if self.static is not None:
            assert isinstance(module, fx.GraphModule)
            settled = rounding.settle(module)
        else:
            settled = settle(module)
        return model.then(settled, Step("qat", asdict(self), f"trained for {', '.join(notes)}"))


def _after_step(module: nn.Module) -> AfterStep:
    """Zeros stay zero, and now and then the scales of blocks are searched anew."""
    zeros = keep_zeros(module)

    def after_step(module: nn.Module, step: int, steps: int) -> None:
        zeros(module, step, steps)
        if step < steps and step % max(1, steps // _PARTS) == 0:
            for part in module.modules():
                if isinstance(part, FakeBlockLinear | FakeBlockEmbedding):
                    part.search()

    return after_step


def _refuse_integers(model: Model) -> None:
    """No gradient goes through integers that are there already."""
    quantized = [name for name, part in model.module.named_modules() if isinstance(part, _INTEGERS)]
    if isinstance(model.module, fx.GraphModule):
        quantized += [node.name for node in model.module.graph.nodes if str(node.target).startswith("edgepress")]
    if quantized:
        raise UnsupportedError(f"qat: {quantized[0]} is quantized already; put qat in that pass's place, or before it")
