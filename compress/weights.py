"""Round weights to integers: the scales of a tensor, of its channels, of its blocks.

    Q = clamp(round(W/s) + z),   W ≈ s·(Q − z)

Scales come from the largest magnitude (symmetric) or the range (asymmetric), and for blocks from the least squared
error over a grid of clipped ranges (the aim of ACIQ, Banner et al. 2019; searched, not fitted).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..export.qtensor import QTensor
from ..runtime.errors import ModelError

# Shares of the full range that are tried; at 4 bits the best clip is seldom below 0.6.
_CLIPS = tuple(1 - 0.02 * i for i in range(21))
_TINY = 1e-12
# Elements that are searched at a time: what stays in a core's cache is walked twenty times.
_CHUNK = 1 << 17

_Fit = Callable[[Tensor], Tensor]


def _half(scale: Tensor) -> Tensor:
    return scale.half().float().clamp_min(2.0**-24)


def _seven(scale: Tensor) -> Tensor:
    """To 7 significant bits, so that its product with a zero point of 4 bits is a float16, too."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp((mantissa * 128).round() / 128, exponent)


# Scales as they will be stored, none of them 0; short ones by whether there are zero points.
_FITS: Mapping[bool, _Fit] = {False: lambda scale: scale.clamp_min(_TINY), True: _half}
_SHORT_FITS: Mapping[bool, _Fit] = {
    False: lambda scale: _half(scale.bfloat16()),
    True: lambda scale: _half(_seven(scale)),
}


def per_channel(weight: Tensor, *, axis: int = 0, bits: int = 8, least: Tensor | None = None) -> QTensor:
    """Symmetric int8, one scale a channel: `s = max|W| / (2^(bits−1) − 1)`; −128 is not used.

    `least`, of shape (channels,), is what no scale goes below. Raises ModelError for a weight that is not finite.
    """
    limit = 2 ** (bits - 1) - 1
    w = finite(weight)
    scale = channel_scale(w, axis=axis, bits=bits)
    if least is not None:
        scale = torch.maximum(scale, least)
    shape = [-1 if i == axis else 1 for i in range(w.ndim)]
    values = torch.clamp(torch.round(w / scale.view(shape)), -limit, limit).to(torch.int8)
    return QTensor(values, scale, None, 8, axis=axis)


def channel_scale(weight: Tensor, *, axis: int = 0, bits: int = 8) -> Tensor:
    """`s = max|W| / (2^(bits−1) − 1)` of each channel, shape (channels,)."""
    peaks = weight.abs().movedim(axis, 0).reshape(weight.shape[axis], -1).amax(1)
    return (peaks / (2 ** (bits - 1) - 1)).clamp_min(_TINY)


def in_blocks(
    weight: Tensor, *, bits: int, block: int, symmetric: bool, half_scales: bool = False, short_scales: bool = False,
    search: bool = True,
) -> QTensor:  # fmt: skip
    """Unsigned integers in blocks along the rows of a matrix, with the scales and zero points of `block_scales`.

    Raises ModelError for a weight that is not finite, or too large for float16 where scales are.
    """
    scale, zero = block_scales(
        weight, bits=bits, block=block, symmetric=symmetric, half_scales=half_scales, short_scales=short_scales,
        search=search,
    )  # fmt: skip
    return with_scales(weight, scale, zero, bits=bits, block=block)


def block_scales(
    weight: Tensor, *, bits: int, block: int, symmetric: bool, half_scales: bool = False, short_scales: bool = False,
    search: bool = True,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Scale and zero point of each block, (rows, blocks), MSE-optimal where `search` is set.

    Symmetric: the zero point is 2^(bits−1) and is not stored. Asymmetric: a zero point a block, rounded.
    `half_scales` stores scales as float16; `short_scales` are float16 with 8 significant bits (7 beside zero points),
    in any type that stores them. What rounds to integers rounds against the stored scale.
    """
    fit = _SHORT_FITS[not symmetric] if short_scales else _FITS[half_scales]
    w = _blocks(finite(weight, torch.float16 if half_scales or short_scales else torch.float32), block)
    parts = [
        _search(part, bits, _CLIPS if search else (1.0,), symmetric=symmetric, fit=fit)
        for part in w.split(max(1, _CHUNK // (w.shape[1] * block)))
    ]
    scale, zero = (torch.cat(column).squeeze(-1) for column in zip(*parts, strict=True))
    return scale.to(torch.float16 if half_scales else torch.float32), None if symmetric else zero.to(torch.uint8)


def with_scales(weight: Tensor, scale: Tensor, zero: Tensor | None, *, bits: int, block: int) -> QTensor:
    """A matrix in blocks whose scales and zero points, each (rows, blocks), are known."""
    q, _ = round_in_blocks(finite(weight), scale, zero, bits=bits, block=block)
    values = q.to(torch.uint8).flatten(-2)[..., : weight.shape[-1]].contiguous()
    return QTensor(values, scale, zero, bits, block=block)


def round_in_blocks(
    weight: Tensor, scale: Tensor, zero: Tensor | None, *, bits: int, block: int
) -> tuple[Tensor, Tensor]:
    """`Q = clamp(round(W/s) + z)` of (..., width), and z, as floats of shape (..., blocks, block) and (..., blocks, 1).

    `scale` and `zero` are (..., blocks); without `zero` it is the midpoint.
    """
    s = scale.float()[..., None]
    z = torch.full_like(s, 2 ** (bits - 1)) if zero is None else zero.float()[..., None]
    return _round(_blocks(weight, block), s, z, bits), z


def _search(w: Tensor, bits: int, clips: tuple[float, ...], *, symmetric: bool, fit: _Fit) -> tuple[Tensor, Tensor]:
    """The clip of least squared error for each block: its scale and zero point."""
    low, high = w.amin(-1, keepdim=True).clamp_max(0), w.amax(-1, keepdim=True).clamp_min(0)
    scale, zero = _scale_and_zero(low, high, bits, clips[0], symmetric=symmetric, fit=fit)
    least = _squared_error(w, scale, zero, bits)
    for clip in clips[1:]:
        trial = _scale_and_zero(low, high, bits, clip, symmetric=symmetric, fit=fit)
        error = _squared_error(w, *trial, bits)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, trial[0], scale), torch.where(better, trial[1], zero)
    return scale, zero


def _round(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return (w / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def _squared_error(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return _round(w, scale, zero, bits).sub_(zero).mul_(scale).sub_(w).square_().sum(-1, keepdim=True)


def finite(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight in float32; raises ModelError where `dtype` does not hold its values."""
    w = weight.detach().float()
    peak, largest = float(w.abs().max()), torch.finfo(dtype).max
    if not peak <= largest:
        shape = list(w.shape)
        raise ModelError(f"a weight {shape} holds {peak:g}; expected at most {largest:g}, and no NaN: check its file")
    return w


def _blocks(w: Tensor, block: int) -> Tensor:
    """(rows, width) -> (rows, blocks, block); the last block is filled with 0: exact, and in every range."""
    return nn.functional.pad(w, (0, -w.shape[-1] % block)).unflatten(-1, (-1, block))


def _scale_and_zero(
    low: Tensor, high: Tensor, bits: int, clip: float, *, symmetric: bool, fit: _Fit
) -> tuple[Tensor, Tensor]:
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        scale = clip * torch.maximum(-low, high) / (middle - 0.5)
    else:
        scale = clip * (high - low) / top
    scale = fit(scale)
    if symmetric:
        return scale, torch.full_like(scale, middle)
    return scale, torch.clamp(torch.round(-clip * low / scale), 0, top)
