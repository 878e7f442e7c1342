"""Mixed precision: each layer at a precision that it can bear, within a budget.

    min Σ_l d(l, o_l)      over a choice o_l for each layer l,      Σ_l bytes(l, o_l) <= budget

d(l, o) is the layer's sensitivity (sensitivity.py): how far the outputs move where it alone is changed; climb.py
chooses. The idea of HAWQ (Dong et al., ICCV 2019), with measured distances in the place of Hessian traces.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .climb import Choice, climb, ladder
from .data import Data
from .fake import FakeBlockEmbedding, FakeBlockLinear, FakeDynamicLinear, FakePackedLinear, settle
from .layers import with_layers
from .options import changed_layers
from .packed import PackedInt8
from .quantize import DynamicInt8, WeightOnly
from .sensitivity import Judge, spread, stored_bytes

_FLOAT = "as they came"
_NAMES: dict[type[nn.Module], str] = {
    FakeDynamicLinear: "as dynamic", FakePackedLinear: "as packed", FakeBlockLinear: "as weight_only",
    FakeBlockEmbedding: "as weight_only", nn.Linear: _FLOAT,
}  # fmt: skip


@dataclass(frozen=True)
class Mixed:
    """Each layer as `dynamic_int8`, `packed_int8` or `weight_only` has it, or as it came; chosen by its sensitivity.

    One of three says how far: `megabytes` is what the tensors of the whole model may take (a file adds its graph),
    `bits` what a weight of these layers may take on average, with its share of the scales, and `cosine` the mean cosine
    that must be kept on calibration samples, with as few bytes as that takes. `dynamic`, `packed` and `weight_only` are
    the settings of the passes to choose from; none given: `dynamic` and `packed`.

    >>> Mixed(megabytes=18)(model, data).history[-1].note
    'layers: 12 as dynamic, 25 as packed; 17.90 MB'
    """

    megabytes: float | None = None
    bits: float | None = None
    cosine: float | None = None
    dynamic: DynamicInt8 | None = None
    packed: PackedInt8 | None = None
    weight_only: WeightOnly | None = None

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in (self.megabytes, self.bits, self.cosine)) != 1:
            raise UsageError(
                "mixed: expected one of megabytes, what the model may take, bits, what a weight may take, and cosine, "
                "what it must keep"
            )
        for name, limit in (("megabytes", self.megabytes), ("bits", self.bits)):
            if limit is not None and not limit > 0:
                raise UsageError(f"mixed: {name} = {limit}; expected a number above 0")
        if self.cosine is not None and not 0 < self.cosine < 1:
            raise UsageError(f"mixed: cosine = {self.cosine}; expected a number between 0 and 1, as 0.99")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where no layer stays changed.

        Raises DataError without calibration data, UsageError where not even the smallest choices fit.
        """
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        swapped = changed_layers(model.module, prepared)
        return model.then(settle(prepared), Step("mixed", asdict(self), self.note(prepared)), swapped=swapped)

    def prepare(self, model: Model, data: Data) -> nn.Module | None:
        """The module with layers that round as they run, each as was chosen for it; None where none changes."""
        judge = Judge(model, spread(list(data.calibration)))
        ladders = self._ladders(model, data, judge)
        states = list(climb(ladders, self._room(model, ladders)))
        state = states[-1] if self.cosine is None else _first(model, states, judge, 1 - self.cosine)
        swapped = {name: choice.layer for name, choice in state.items() if choice.name != _FLOAT}
        return with_layers(model.module, swapped) if swapped else None

    def note(self, prepared: nn.Module) -> str:
        """What was chosen, in words."""
        counts = Counter(_NAMES[type(part)] for part in prepared.modules() if type(part) in _NAMES)
        parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        return f"layers: {parts}; {stored_bytes(settle(prepared)) / 1e6:.2f} MB"

    def _ladders(self, model: Model, data: Data, judge: Judge) -> dict[str, list[Choice]]:
        """The choices of each layer, from the smallest up; a larger one that is no better is none."""
        passes = {"dynamic": self.dynamic, "packed": self.packed, "weight_only": self.weight_only}
        if not any(passes.values()):
            passes = {"dynamic": DynamicInt8(), "packed": PackedInt8()}
        found: dict[str, list[Choice]] = {}
        for kind, step in passes.items():
            prepared = None if step is None else step.prepare(model, data)
            changed = {} if prepared is None else changed_layers(model.module, prepared)
            for index, (name, layer) in enumerate(changed.items(), 1):
                data.tell(f"mixed, {kind}: layer {index} of {len(changed)}, {name}")
                drop, _ = judge(with_layers(model.module, {name: layer}))
                found.setdefault(name, []).append(Choice(kind, stored_bytes(settle(layer)), drop, layer))
        for name, choices in found.items():
            layer = model.module.get_submodule(name)
            choices.append(Choice(_FLOAT, stored_bytes(layer), 0.0, layer))
            found[name] = ladder(choices)
        return found

    def _room(self, model: Model, ladders: Mapping[str, list[Choice]]) -> float:
        """The bytes that the layers of the ladders may take."""
        if self.cosine is not None:
            return float("inf")
        layers = [model.module.get_submodule(name) for name in ladders]
        least = sum(choices[0].bytes for choices in ladders.values())
        if self.megabytes is not None:
            others = stored_bytes(settle(model.module)) - sum(map(stored_bytes, layers))
            room, needed = self.megabytes * 1e6 - others, (others + least) / 1e6
        else:
            assert self.bits is not None
            weights = sum(layer.get_parameter("weight").numel() for layer in layers)
            room, needed = self.bits * weights / 8, 8 * least / max(weights, 1)
        if least > room:
            asked = f"megabytes = {self.megabytes}" if self.megabytes is not None else f"bits = {self.bits}"
            raise UsageError(
                f"mixed: {asked}, and the smallest choices take {needed:.2f}; allow more, or make the other layers "
                "smaller before"
            )
        return room


def _first(model: Model, states: list[dict[str, Choice]], judge: Judge, most: float) -> dict[str, Choice]:
    """The first state whose drop is small enough, by bisection: the drop falls as layers are raised."""
    low, high = 0, len(states) - 1
    while low < high:
        middle = (low + high) // 2
        layers = {name: choice.layer for name, choice in states[middle].items() if choice.name != _FLOAT}
        if judge(with_layers(model.module, layers))[0] <= most:
            high = middle
        else:
            low = middle + 1
    return states[low]
