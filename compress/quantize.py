"""Quantize weights after training, without or with activations quantized as they come.

- DynamicInt8:  W ≈ s_w·Q_w per output channel; x ≈ s_x·(Q_x − z_x) measured at run time: int8 products, so fast.
- WeightOnly:   W ≈ s·(Q − z) in blocks of 4 or 8 bits; activations stay float: small, and kind to accuracy. How Q is
                rounded for what the layers read is in blocks.py.

Static int8, with activations calibrated beforehand, is in static.py. Each pass first prepares: it puts layers in place
that round as they run; then it settles them to integers. Between the two, qat.py trains.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from torch import nn

from ..export.model import Model
from ..export.quantized import Divided
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from .blocks import ROUNDINGS, Blocks, rounded_layers
from .data import Data
from .fake import FakeBlockEmbedding, FakeBlockLinear, FakeDynamicLinear, settle
from .layers import find_layers, with_layers
from .smooth import smoothing_scales

BITS = (4, 8)
_KINDS = ("linear", "embedding")


@dataclass(frozen=True)
class DynamicInt8:
    """int8 for every Linear: weights per channel, activations per tensor at run time (uint8, ONNX's formula).

    `smooth` is SmoothQuant's α: how much of the activations' outliers moves into the weights (0: none; wants no data).
    `reduce_range` keeps weights to 7 bits, for x86 CPUs without VNNI; None leaves it to the device.
    `include` and `exclude` are shell patterns over module names.
    """

    smooth: float = 0.8
    reduce_range: bool | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"dynamic_int8: smooth = {self.smooth}; expected a number from 0 to 1")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where it has no Linear. Raises DataError where `smooth` finds no data."""
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        settings = asdict(replace(self, reduce_range=bool(self.reduce_range)))
        step = Step("dynamic_int8", settings, self.note(prepared))
        return model.then(settle(prepared), step, swapped=self._layers(model))

    def prepare(self, model: Model, data: Data) -> nn.Module | None:
        """The module with layers that round as they run, on the weights of the model; None where it has no Linear."""
        layers = self._layers(model)
        if not layers:
            return None
        scales = smoothing_scales(model, layers, data.calibration, self.smooth) if self.smooth else {}
        prepared: dict[str, nn.Module] = {}
        for name, layer in layers.items():
            if name in scales:
                weight = nn.Parameter(layer.weight.detach() * scales[name])
                prepared[name] = Divided(scales[name], FakeDynamicLinear(weight, layer.bias, self._bits))
            else:
                prepared[name] = FakeDynamicLinear(layer.weight, layer.bias, self._bits)
        return with_layers(model.module, prepared)

    def note(self, prepared: nn.Module) -> str:
        """What was done, in words."""
        count = sum(isinstance(part, FakeDynamicLinear) for part in prepared.modules())
        return f"{count} Linear layers at int8 ({self._bits} bits used), per channel"

    def _layers(self, model: Model) -> dict[str, nn.Linear]:
        found = find_layers(model.module, ["linear"], self.include, self.exclude)
        return {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}

    @property
    def _bits(self) -> int:
        return 7 if self.reduce_range else 8


@dataclass(frozen=True)
class WeightOnly:
    """4 or 8 bit weights in blocks along the rows, with MSE-optimal scales.

    `rounding` says how the weights of linear layers become integers: each to the `nearest`, or so that the layer's
    outputs change least on calibration data: by GPTQ (gptq.py), or by AWQ (awq.py), which divides the inputs. The
    layer before does that where it can (folding.py); elsewhere `divide` has the layer do it itself, or else its weights
    are rounded as they are.
    `symmetric` stores no zero points; `half_scales` stores float16 scales, for embeddings (a product wants float32);
    `short_scales` gives those of products 8 significant bits; beside zero points 7, to those of embeddings too. All are
    float16 numbers then, and a head that is tied to a table stays so: both are rounded to the nearest. None leaves
    either to the format: TFLite wants both, GGUF wants short scales.
    `layers` names the kinds: `linear`, `embedding`. `rows` leaves shorter tables to another pass: positions and
    segments are in every text, so their error is in every sum. Blocks have a power of two of weights, at least 16.
    """

    bits: int = 4
    block: int = 32
    rounding: Literal["nearest", "gptq", "awq"] = "nearest"
    symmetric: bool | None = None
    half_scales: bool = True
    short_scales: bool | None = None
    divide: bool | None = None
    layers: tuple[str, ...] = ("linear", "embedding")
    rows: int = 0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"weight_only: bits = {self.bits}; expected one of 4, 8")
        if self.block < 16 or self.block & (self.block - 1):
            raise UsageError(f"weight_only: block = {self.block}; expected a power of two, at least 16")
        if self.rounding not in ROUNDINGS:
            raise UsageError(f"weight_only: rounding = {self.rounding!r}; expected one of {', '.join(ROUNDINGS)}")
        if unknown := set(self.layers) - set(_KINDS):
            raise UsageError(f"weight_only: layers = {sorted(unknown)}; known kinds: {', '.join(_KINDS)}")

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs no data to round to the nearest. Returns the model unchanged where it has no layer of these kinds.

        Raises UnsupportedError for an embedding with `max_norm`, ModelError for weights that are not finite, DataError
        where `gptq` or `awq` finds no data.
        """
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        step = Step("weight_only", asdict(self._chosen), self.note(prepared))
        # where a norm took a division, more than these layers has changed
        return model.then(settle(prepared), step, swapped=None if self.rounding == "awq" else self._layers(model))

    def prepare(self, model: Model, data: Data) -> nn.Module | None:
        """The module with layers that round as they run, on the weights of the model; None where it has none."""
        layers = self._layers(model)
        if not layers:
            return None
        for name, layer in layers.items():
            if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
                raise UnsupportedError(f"weight_only: {name} cuts its rows to max_norm as they are read; exclude it")
        tied = _tied(layers) if self.short_scales else set()
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and name not in tied]
        later = [] if self.rounding == "nearest" else linear
        first = {name: self._fake(layer, name in tied) for name, layer in layers.items() if name not in later}
        if not later:
            return with_layers(model.module, first)
        chosen = self._chosen
        blocks = Blocks(self.bits, self.block, bool(chosen.symmetric), bool(chosen.short_scales))
        made = rounded_layers(model, data, first, later, blocks, self.rounding, bool(chosen.divide))
        return with_layers(model.module, first | made)

    def note(self, prepared: nn.Module) -> str:
        """What was done, in words."""
        count = sum(isinstance(part, FakeBlockLinear | FakeBlockEmbedding) for part in prepared.modules())
        how = {"nearest": "", "gptq": ", rounded by GPTQ", "awq": ", scaled by AWQ"}[self.rounding]
        return f"{count} layers at {self.bits} bits in blocks of {self.block}{how}"

    @property
    def _chosen(self) -> "WeightOnly":
        """The pass with what nobody has chosen set to what ONNX takes."""
        symmetric, short_scales = bool(self.symmetric), bool(self.short_scales)
        return replace(self, symmetric=symmetric, short_scales=short_scales, divide=self.divide is not False)

    def _layers(self, model: Model) -> dict[str, nn.Module]:
        found = find_layers(model.module, self.layers, self.include, self.exclude)
        return {name: layer for name, layer in found.items() if not self._is_short(layer)}

    def _is_short(self, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Embedding) and layer.num_embeddings < self.rows

    def _fake(self, layer: nn.Module, tied: bool) -> nn.Module:
        if isinstance(layer, nn.Linear):
            return FakeBlockLinear(
                layer.weight,
                layer.bias,
                bits=self.bits,
                block=self.block,
                symmetric=bool(self.symmetric),
                short_scales=bool(self.short_scales),
            )
        assert isinstance(layer, nn.Embedding)
        return FakeBlockEmbedding(
            layer.weight,
            layer.padding_idx,
            bits=self.bits,
            block=self.block,
            symmetric=bool(self.symmetric),
            half_scales=self.half_scales,
            short_scales=bool(self.short_scales) and (tied or not self.symmetric),
        )


def _tied(layers: Mapping[str, nn.Module]) -> set[str]:
    """The names of tables that are a Linear's weights too, and of those layers: with short scales they stay alike."""
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    tables = {id(weights[name]) for name, layer in layers.items() if isinstance(layer, nn.Embedding)}
    both = tables & {id(weights[name]) for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    return {name for name, weight in weights.items() if id(weight) in both}
