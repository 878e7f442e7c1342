"""ONNX's Resize and Upsample, nearest and linear.

torch's own `interpolate` is used where it computes the same (it exports as one operator again); the other modes follow
the specification's formulas, axis by axis: x_original from x_resized, then one neighbour, or two and their weights.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .onnx_values import Floats, Ints, as_ints

Coordinates = Literal["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def resize(
    x: Tensor, roi: Tensor | None = None, scales: Floats | None = None, sizes: Ints | None = None, *,
    antialias: Literal[0] = 0, axes: Ints | None = None, coordinate_transformation_mode: Coordinates = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: Literal[0] = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Literal["stretch"] = "stretch", mode: Literal["nearest", "linear"] = "nearest",
    nearest_mode: Nearest = "round_prefer_floor",
) -> Tensor:  # fmt: skip
    axes = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    if sizes is not None:
        targets = dict(zip(axes, as_ints(sizes), strict=True))
        factors = {a: n / x.shape[a] for a, n in targets.items()}
    else:
        factors = dict(zip(axes, as_ints(scales), strict=True))
        targets = {a: math.floor(x.shape[a] * f) for a, f in factors.items()}
    changed = [a for a in axes if not (isinstance(factors[a], float | int) and factors[a] == 1)]
    if coordinate_transformation_mode == "pytorch_half_pixel" and all(targets[a] != 1 for a in changed):
        coordinate_transformation_mode = "half_pixel"  # they differ only where one value is left
    plain = _interpolation(coordinate_transformation_mode, mode, nearest_mode, [factors[a] for a in changed])
    if plain and changed and min(changed) >= 2 and (mode == "nearest" or x.ndim in (3, 4)):
        spatial = range(2, x.ndim)
        size = [targets.get(a, x.shape[a]) for a in spatial]
        scale = None if sizes is not None else [float(factors.get(a, 1)) for a in spatial]
        return _interpolate(x, size, scale, plain)
    for axis in changed:
        where = _original(coordinate_transformation_mode, targets[axis], x.shape[axis], factors[axis])
        x = _pick(x, axis, where, nearest_mode) if mode == "nearest" else _blend(x, axis, where)
    return x


def resize_10(x: Tensor, scales: Floats, *, mode: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """Resize before opset 11, and Upsample: scales alone, asymmetric, rounding down."""
    return resize(x, None, scales, coordinate_transformation_mode="asymmetric", mode=mode, nearest_mode="floor")


def _interpolation(coordinates: str, mode: str, nearest: str, factors: list[Any]) -> str:
    """torch's name of the same interpolation, or `""`."""
    if mode == "linear":
        return {"half_pixel": "linear", "align_corners": "corners"}.get(coordinates, "")
    if coordinates == "asymmetric" and nearest == "floor":
        return "nearest"
    whole = all(isinstance(f, float | int) and float(f).is_integer() for f in factors)
    halves = coordinates == "half_pixel" and nearest.startswith("round")
    return "nearest" if whole and halves else ""  # a whole factor meets no ties: floor(i / factor) either way


def _interpolate(x: Tensor, size: Ints, scale: Floats | None, plain: str) -> Tensor:
    mode = "nearest" if plain == "nearest" else {3: "linear", 4: "bilinear"}[x.ndim]
    corners = None if plain == "nearest" else plain == "corners"
    if scale is None or corners:
        return F.interpolate(x, size=size, mode=mode, align_corners=corners)
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=corners)


def _original(coordinates: str, resized: Any, length: Any, factor: Any) -> Tensor:
    """Where in the input each output value lies."""
    i = torch.arange(resized, dtype=torch.float32)
    if coordinates == "align_corners":
        return i * (length - 1) / max(resized - 1, 1)
    if coordinates == "asymmetric":
        return i / factor
    if coordinates == "pytorch_half_pixel" and resized == 1:
        return i * 0
    x = (i + 0.5) / factor - 0.5
    if coordinates == "half_pixel_symmetric":
        return x + length / 2 * (1 - resized / (length * factor))
    return x


def _pick(x: Tensor, axis: int, where: Tensor, nearest: str) -> Tensor:
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(where - 0.5),
        "round_prefer_ceil": lambda: torch.floor(where + 0.5),
        "floor": lambda: torch.floor(where),
        "ceil": lambda: torch.ceil(where),
    }[nearest]()
    return x.index_select(axis, rounded.clamp(0, x.shape[axis] - 1).long())


def _blend(x: Tensor, axis: int, where: Tensor) -> Tensor:
    last = x.shape[axis] - 1
    low = torch.floor(where)
    weight = (where - low).to(x.dtype).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    left = x.index_select(axis, low.clamp(0, last).long())
    right = x.index_select(axis, (low + 1).clamp(0, last).long())
    return left + (right - left) * weight
