"""Packed int8: what is computed is int8, what is stored is 4 bits.

    W ≈ s_n·V,   V = m_nb·(Q − z_nb) in int8,   Q, z and m in 4 bits

for row n and block b. Q, z and m are small integers, so an engine makes V from them once, when it loads the file, and
then runs the fastest products that it has: half the bytes of int8 per channel at the same speed. Two levels of scales
as in QServe (Lin et al., 2024); Q is rounded by GPTQ (gptq.py) where there is calibration data.
"""

import itertools
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .data import Data
from .fake import FakePackedLinear, settle
from .gptq import Round, gptq
from .layers import find_layers, with_layers
from .moments import second_moments
from .weights import finite

_TOP = 15  # the largest of 4 bits


@dataclass(frozen=True)
class PackedInt8:
    """4 stored bits a weight of every Linear, in blocks along the rows; int8 products, activations as dynamic int8.

    `gptq` rounds so that the layer's outputs change least on the calibration data, and wants some; without it each
    weight is rounded to the nearest. `reduce_range` keeps V to 7 bits, for x86 CPUs without VNNI; None leaves it to
    the device. `include` and `exclude` are shell patterns over module names. A layer whose width is no multiple of
    `block` is left.
    """

    block: int = 32
    gptq: bool = True
    reduce_range: bool | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block < 8:
            raise UsageError(f"packed_int8: block = {self.block}; expected at least 8")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where no Linear fits. Raises DataError where `gptq` finds no data."""
        prepared = self.prepare(model, data)
        if prepared is None:
            return model
        settings = asdict(replace(self, reduce_range=bool(self.reduce_range)))
        step = Step("packed_int8", settings, self.note(prepared))
        return model.then(settle(prepared), step, swapped=self._layers(model))

    def prepare(self, model: Model, data: Data) -> nn.Module | None:
        """The module with layers that round as they run, on weights that GPTQ has moved; None where none fits."""
        layers = self._layers(model)
        if not layers:
            return None
        moments = second_moments(model, layers, data.calibration, "packed_int8") if self.gptq else {}
        limit = 63 if self.reduce_range else 127
        return with_layers(
            model.module, {name: self._fake(layer, moments.get(name), limit) for name, layer in layers.items()}
        )

    def note(self, prepared: nn.Module) -> str:
        """What was done, in words."""
        count = sum(isinstance(part, FakePackedLinear) for part in prepared.modules())
        how = "GPTQ" if self.gptq else "nearest"
        return f"{count} Linear layers stored at 4 bits in blocks of {self.block} ({how}), computed in int8"

    def _layers(self, model: Model) -> dict[str, nn.Linear]:
        found = find_layers(model.module, ["linear"], self.include, self.exclude)
        return {n: layer for n, layer in found.items() if isinstance(layer, nn.Linear) and _fits(layer, self.block)}

    def _fake(self, layer: nn.Linear, moments: Tensor | None, limit: int) -> FakePackedLinear:
        weight = finite(layer.weight)
        scale = row_scale(weight, limit)
        if moments is None:
            parts = [two_levels(part, scale, limit) for part in weight.split(self.block, 1)]
        else:
            parts = []

            def grid(part: Tensor) -> Round:
                multiplier, zero = two_levels(part, scale, limit)
                parts.append((multiplier, zero))
                step = multiplier * scale
                return lambda column, j: ((column / step).round() + zero).clamp(0, _TOP).sub(zero) * step

            weight = gptq(weight, moments, grid, block=self.block)
        multiplier, zero = (torch.stack(column, 1).to(torch.uint8) for column in zip(*parts, strict=True))
        parameter = layer.weight if moments is None else nn.Parameter(weight)
        return FakePackedLinear(parameter, layer.bias, multiplier, zero, scale, self.block)


def _fits(layer: nn.Linear, block: int) -> bool:
    return layer.in_features % block == 0


def row_scale(weight: Tensor, limit: int) -> Tensor:
    """s of each row, (rows,): what brings its largest weight near the largest integer of V, 8 steps of 15."""
    return (weight.abs().amax(1) / (limit // 8 * 8)).clamp_min(1e-12)


def two_levels(part: Tensor, scale: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """m and z of a block, float (rows,) of integers in [1, 15] and [0, 15], of least error in s·m·(Q − z).

    part: (rows, block); scale: (rows,). |V| stays within `limit`.
    """
    middle = (part.amin(1) + part.amax(1)) / 2
    least, best = torch.full_like(scale, torch.inf), (torch.ones_like(scale), torch.zeros_like(scale))
    for m, shift in itertools.product(range(1, limit // 8 + 1), (0, -1, 1)):
        zero = ((_TOP / 2 - middle / (m * scale)).round() + shift).clamp(0, _TOP)
        multiplier = (limit / torch.maximum(zero, _TOP - zero)).floor().clamp(max=m)
        step, z = (multiplier * scale)[:, None], zero[:, None]
        error = ((part / step).round_().add_(z).clamp_(0, _TOP).sub_(z).mul_(step).sub_(part)).square_().sum(1)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, multiplier, best[0]), torch.where(better, zero, best[1])
    return best
