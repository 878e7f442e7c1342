"""Layers that round as they run, so that a network can learn to live with it, and that settle to integers afterwards.

    forward:   ŵ = s_w·round(w/s_w),   x̂ = s_x·(clamp(round(x/s_x) + z_x) − z_x)
    backward:  ∂L/∂w = ∂L/∂ŵ,          ∂L/∂x = ∂L/∂x̂ where x is in the range that the integers reach, else 0

The straight-through estimator (Bengio, Léonard & Courville 2013) in the scheme of Jacob et al., CVPR 2018. Scales of
channels and of dynamic activations follow from max|w| and from x in every step; those of blocks stay as they were
searched until `search` is called again; ranges of static activations stay as they were calibrated. A weight of 0 rounds
to 0. Rounding costs six or seven walks through a tensor and keeps nothing for the gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.qtensor import QTensor
from ..export.quantized import BlockEmbedding, BlockLinear, DynamicLinear, PackedLinear
from .layers import with_layers
from .weights import block_scales, channel_scale, finite, per_channel, round_in_blocks, with_scales

# Scales and zero points of the blocks of a matrix, (rows, blocks) each.
Scales = tuple[Tensor, Tensor | None]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        return rounded(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


class _WithinRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Callable[[Tensor], Tensor], low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return rounded(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None, None, None]:
        return torch.ops.aten.hardtanh_backward(gradients[0], *ctx.saved_tensors, *ctx.range), None, None, None


def fake_dynamic(x: Tensor) -> Tensor:
    """x as `edgepress::dynamic_linear` reads it: uint8 over the range of the whole tensor, which holds 0."""

    def rounded(x: Tensor) -> Tensor:
        low, high = x.aminmax()
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        step = (high - low) / 255
        step = torch.where(step > 0, step, 1.0)
        return _round(x, step, torch.round(torch.clamp(-low / step, 0, 255)), 0, 255)

    return _StraightThrough.apply(x, rounded)  # pyright: ignore[reportReturnType] - apply is untyped


def _round(x: Tensor, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
    return (x / scale).round_().add_(zero).clamp_(lowest, highest).sub_(zero).mul_(scale)


def _parameter(weight: Tensor) -> nn.Parameter:
    """The very parameter, so that it stays tied to whatever else holds it."""
    return weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach())


class FakeActivation(nn.Module):
    """A value as `edgepress::quantize_dequantize` passes it on: scale () float32, zero () of the integers' dtype."""

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        limits, step = torch.iinfo(zero.dtype), float(scale)
        self.lowest, self.highest = limits.min, limits.max
        self.range = (self.lowest - int(zero) - 0.5) * step, (self.highest - int(zero) + 0.5) * step

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape, float32."""
        zero = self.zero.float()

        def rounded(x: Tensor) -> Tensor:
            return _round(x, self.scale, zero, self.lowest, self.highest)

        return _WithinRange.apply(x, rounded, *self.range)  # pyright: ignore[reportReturnType]


class FakeChannels(nn.Module):
    """A weight that is rounded per channel, whose `forward` takes nothing and gives `ŵ`."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.weight, self.bits = _parameter(weight), bits

    def forward(self) -> Tensor:
        """float32 of the weight's shape."""
        return _StraightThrough.apply(self.weight, self._rounded)  # pyright: ignore[reportReturnType]

    def _rounded(self, weight: Tensor) -> Tensor:
        scale = channel_scale(weight, bits=self.bits).view(-1, *[1] * (weight.ndim - 1))
        return (weight / scale).round_().mul_(scale)


class FakeBias(nn.Module):
    """A bias in whole steps of `s_x·s_w`, as the int32 sums count it; `step` is s_x, s_w that of FakeChannels."""

    step: Tensor

    def __init__(self, bias: Tensor, weight: Tensor, step: Tensor, bits: int) -> None:
        super().__init__()
        self.bias, self.weight, self.bits = _parameter(bias), _parameter(weight), bits
        self.register_buffer("step", step)

    def forward(self) -> Tensor:
        """float32 (channels,)."""
        return _StraightThrough.apply(self.bias, self._rounded)  # pyright: ignore[reportReturnType]

    def _rounded(self, bias: Tensor) -> Tensor:
        scale = channel_scale(self.weight.detach(), bits=self.bits)
        return torch.round(bias.double() / (self.step.double() * scale.double())).float() * (self.step * scale)


class FakeDynamicLinear(nn.Module):
    """nn.Linear on its way to a DynamicLinear."""

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: int) -> None:
        super().__init__()
        self.channels, self.bias = FakeChannels(weight, bits), bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch's own layers do
        """input: (..., in), float32 -> (..., out)."""
        return F.linear(fake_dynamic(input), self.channels(), self.bias)

    def settle(self) -> DynamicLinear:
        """The layer with the integers that `forward` rounds to. Raises ModelError for weights that are not finite."""
        return DynamicLinear(per_channel(self.channels.weight, bits=self.channels.bits), self.bias)


class _FakeBlocks(nn.Module):
    """A matrix that is rounded in blocks along its rows, with the scales of its last `search`, or those `found`."""

    scale: Tensor
    zero: Tensor | None

    def __init__(
        self, weight: Tensor, *, bits: int, block: int, symmetric: bool, half_scales: bool, short_scales: bool = False,
        found: Scales | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight, self.bits, self.block = _parameter(weight), bits, block
        self.symmetric, self.half_scales, self.short_scales = symmetric, half_scales, short_scales
        scale, zero = found or self._search()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def search(self) -> None:
        """Find the scales of least squared error anew, for the weights as they are now."""
        self.scale, self.zero = self._search()

    def _search(self) -> Scales:
        return block_scales(
            self.weight, bits=self.bits, block=self.block, symmetric=self.symmetric, half_scales=self.half_scales,
            short_scales=self.short_scales,
        )  # fmt: skip

    def _fake(self, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """Rows of the weight, rounded with their scales and zero points."""

        def rounded(weight: Tensor) -> Tensor:
            q, z = round_in_blocks(weight, scale, zero, bits=self.bits, block=self.block)
            w = q.sub_(z).mul_(scale.float()[..., None]).flatten(-2)[..., : weight.shape[-1]]
            return w.to(scale.dtype).float()

        return _StraightThrough.apply(weight, rounded)  # pyright: ignore[reportReturnType]

    def quantized(self) -> QTensor:
        """The integers that `forward` rounds to. Raises ModelError for weights that are not finite."""
        return with_scales(self.weight, self.scale, self.zero, bits=self.bits, block=self.block)


class FakeBlockLinear(_FakeBlocks):
    """nn.Linear on its way to a BlockLinear."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, bits: int, block: int, symmetric: bool,
        short_scales: bool = False, found: Scales | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            weight, bits=bits, block=block, symmetric=symmetric, half_scales=False, short_scales=short_scales,
            found=found,
        )  # fmt: skip
        self.bias = bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        return F.linear(input, self._fake(self.weight, self.scale, self.zero), self.bias)

    def settle(self) -> BlockLinear:
        return BlockLinear(self.quantized(), self.bias)


class FakeBlockEmbedding(_FakeBlocks):
    """nn.Embedding on its way to a BlockEmbedding; only the rows that are read are rounded."""

    def __init__(
        self, weight: Tensor, padding: int | None, *, bits: int, block: int, symmetric: bool, half_scales: bool,
        short_scales: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            weight, bits=bits, block=block, symmetric=symmetric, half_scales=half_scales, short_scales=short_scales
        )
        self.padding = padding

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (...), int64 -> (..., width), float32."""
        rows = F.embedding(input, self.weight, self.padding)
        return self._fake(rows, self.scale[input], None if self.zero is None else self.zero[input])

    def settle(self) -> BlockEmbedding:
        return BlockEmbedding(self.quantized())


class FakePackedLinear(nn.Module):
    """nn.Linear on its way to a PackedLinear: weights on `s·m·(Q − z)` with m and z as they were found.

    multiplier, zero: uint8 (rows, blocks); scale: (rows,).
    """

    multiplier: Tensor
    zero: Tensor
    scale: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, multiplier: Tensor, zero: Tensor, scale: Tensor, block: int
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.block = _parameter(weight), bias, block
        self.register_buffer("multiplier", multiplier)
        self.register_buffer("zero", zero)
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        weight = _StraightThrough.apply(self.weight, self._rounded)
        return F.linear(fake_dynamic(input), weight, self.bias)  # pyright: ignore[reportArgumentType]

    def _parts(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q of each weight, (rows, blocks, block), and the step and zero point of each block."""
        step = (self.multiplier * self.scale[:, None])[..., None]
        zero = self.zero.float()[..., None]
        return (weight.unflatten(1, (-1, self.block)) / step).round_().add_(zero).clamp_(0, 15), step, zero

    def _rounded(self, weight: Tensor) -> Tensor:
        q, step, zero = self._parts(weight)
        return q.sub_(zero).mul_(step).flatten(1)

    def settle(self) -> PackedLinear:
        """The layer with the integers that `forward` rounds to. Raises ModelError for weights that are not finite."""
        q, _, _ = self._parts(finite(self.weight))
        values = q.flatten(1).to(torch.uint8)
        return PackedLinear(values, self.multiplier, self.zero, self.scale, self.bias, self.block)


_FAKES = (FakeDynamicLinear, FakeBlockLinear, FakeBlockEmbedding, FakePackedLinear)


def settle(module: nn.Module) -> nn.Module:
    """A copy of a prepared module with the integers in place that its layers rounded to."""
    return with_layers(module, {name: p.settle() for name, p in module.named_modules() if isinstance(p, _FAKES)})
