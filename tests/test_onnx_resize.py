"""Resizing in every mode against ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

from .onnx_check import check, image, ints

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(2, 3), (0.7, 1.7), (0.5, 0.5)])
def test_nearest_resizing(coordinates: str, nearest: str, scales: tuple[float, float], tmp_path: Path) -> None:
    factors = np.array([1, 1, *scales], np.float32)
    check(tmp_path, "Resize", {"x": image}, {"s": factors}, order=["x", "", "s"], opset=19,
          coordinate_transformation_mode=coordinates, nearest_mode=nearest)  # fmt: skip


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", [(14, 18), (3, 3), (5, 11), (3, 1)])
@pytest.mark.parametrize("by_size", [True, False])
def test_linear_resizing(coordinates: str, sizes: tuple[int, int], by_size: bool, tmp_path: Path) -> None:
    factors = np.array([1, 1, sizes[0] / 7, sizes[1] / 6], np.float32)
    target = {"s": ints(2, 4, *sizes)} if by_size else {"s": factors}
    check(tmp_path, "Resize", {"x": image}, target, order=["x", "", "", "s"] if by_size else ["x", "", "s"], opset=19,
          coordinate_transformation_mode=coordinates, mode="linear")  # fmt: skip


def test_older_opsets_scale_from_the_corner(tmp_path: Path) -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    check(tmp_path, "Upsample", {"x": image}, {"scales": scales}, opset=9)
    check(tmp_path, "Resize", {"x": image}, {"scales": scales}, opset=10, mode="linear")
