"""ONNX operators that slide a window over the spatial axes: convolutions and pooling, with all their paddings.

Shapes are `(batch, channels, *spatial)` with one to three spatial axes. The signatures follow the rule of `onnx_math`.
torch pads both ends of an axis alike; where ONNX does not, the input is padded first.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.errors import UnsupportedError
from .onnx_values import Ints

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def same_pads(size: Ints, kernel: Ints, strides: Ints, dilations: Ints, auto_pad: str) -> Ints:
    """Pads, begins then ends, that give `ceil(size / stride)` outputs; an odd one goes to the upper or lower end.

    >>> same_pads([5], [2], [1], [1], "SAME_UPPER")
    [0, 1]
    """
    totals = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        totals.append(torch.sym_max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0))
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def pad_spatial(x: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    """Pad the spatial axes; `pads` are ONNX's: all begins, then all ends."""
    n = len(pads) // 2
    sides = [side for axis in reversed(range(n)) for side in (pads[axis], pads[axis + n])]
    return F.pad(x, sides, value=value)


def pad_same(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, auto_pad: str) -> Tensor:
    """Pad as `auto_pad` asks, by the size that the input has."""
    return pad_spatial(x, same_pads(list(x.shape[2:]), kernel, strides, dilations, auto_pad))


def conv(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: AutoPad = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = w.ndim - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    pads = _pads(x, list(w.shape[2:]), strides, dilations, pads, auto_pad)
    if pads[:n] != pads[n:]:
        x, pads = pad_spatial(x, pads), [0] * 2 * n
    return _CONV[n](x, w, b, strides, pads[:n], dilations, group)


def conv_transpose(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: Literal["NOTSET", "VALID"] = "NOTSET",
    dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None, output_padding: Ints | None = None,
    pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = w.ndim - 2
    ones, zeros = [1] * n, [0] * n
    pads = pads or zeros * 2
    even = pads[:n] == pads[n:]
    y = _TRANSPOSED[n](
        x, w, b, strides or ones, pads[:n] if even else zeros, output_padding or zeros, group, dilations or ones
    )
    return y if even else pad_spatial(y, [-p for p in pads])


def max_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: AutoPad = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    pads: Ints | None = None, storage_order: Literal[0] = 0, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    pads = _pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    if _fit(pads, kernel_shape):
        return _MAX_POOL[n](x, kernel_shape, strides, pads[:n], dilations, ceil_mode=bool(ceil_mode))
    y = _MAX_POOL[n](pad_spatial(x, pads, -math.inf), kernel_shape, strides, 0, dilations, ceil_mode=bool(ceil_mode))
    return _starting_inside(y, x, pads, strides)


def average_pool(
    x: Tensor, *, kernel_shape: Ints, auto_pad: AutoPad = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Tensor:  # fmt: skip
    n = len(kernel_shape)
    if any(d != 1 for d in dilations or []):
        raise UnsupportedError("AveragePool with dilations; torch has none")
    strides = strides or [1] * n
    pads = _pads(x, kernel_shape, strides, [1] * n, pads, auto_pad)
    pool, include = _AVG_POOL[n], bool(count_include_pad)
    if _fit(pads, kernel_shape):
        return pool(x, kernel_shape, strides, pads[:n], bool(ceil_mode), include)
    y = pool(pad_spatial(x, pads), kernel_shape, strides, 0, bool(ceil_mode))
    if not include:  # divide by the share of each window that is no padding
        y = y / pool(pad_spatial(torch.ones_like(x[:1, :1]), pads), kernel_shape, strides, 0, bool(ceil_mode))
    return _starting_inside(y, x, pads, strides)


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _pads(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto_pad: str) -> Ints:
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(list(x.shape[2:]), kernel, strides, dilations, auto_pad)
    return list(pads) if pads and auto_pad == "NOTSET" else [0] * 2 * len(kernel)


def _starting_inside(y: Tensor, x: Tensor, pads: Ints, strides: Ints) -> Tensor:
    """Without the windows that start in the padding at the end: rounding up does not count them."""
    counts = (-(-(n + begin) // s) for n, begin, s in zip(x.shape[2:], pads, strides, strict=False))
    return y[(slice(None), slice(None), *(slice(count) for count in counts))]


def _fit(pads: Ints, kernel: Ints) -> bool:
    """True where torch's pooling can pad by itself: both ends alike, at most half a window."""
    n = len(kernel)
    return pads[:n] == pads[n:] and all(p <= k // 2 for p, k in zip(pads, kernel * 2, strict=True))
