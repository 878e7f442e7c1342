"""Convolutions and pooling of any window against ONNX Runtime."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from .onnx_check import check, floats, image, random_settings


def auto_or_pads(n: int, largest: int) -> st.SearchStrategy[dict[str, Any]]:
    explicit = st.lists(st.integers(0, largest), min_size=2 * n, max_size=2 * n).map(lambda p: {"pads": p})
    automatic = st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]).map(lambda a: {"auto_pad": a})
    return explicit | automatic


def per_axis(n: int, largest: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, largest), min_size=n, max_size=n)


@given(data=st.data(), n=st.integers(1, 3), group=st.sampled_from([1, 2, 4]), constant=st.booleans())
@random_settings
def test_convolutions_of_any_window(data: st.DataObject, n: int, group: int, constant: bool, tmp_path: Path) -> None:
    kernel, strides, dilations = (data.draw(per_axis(n, m)) for m in (3, 3, 2))
    padding = data.draw(auto_or_pads(n, 2))
    x, w, b = floats(2, 4, *(7 - i for i in range(n))), floats(8, 4 // group, *kernel), floats(8)
    how = {"strides": strides, "group": group, **padding}
    if "auto_pad" not in padding:  # ONNX Runtime refuses the two together
        how["dilations"] = dilations
    inputs, constants = ({"x": x}, {"w": w, "b": b}) if constant else ({"x": x, "w": w, "b": b}, {})
    model = check(tmp_path, "Conv", inputs, constants, **how)
    layers = [m for m in model.module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    assert len(layers) == constant


@given(data=st.data(), n=st.integers(1, 3), group=st.sampled_from([1, 2]), constant=st.booleans())
@random_settings
def test_transposed_convolutions(data: st.DataObject, n: int, group: int, constant: bool, tmp_path: Path) -> None:
    kernel, strides = data.draw(per_axis(n, 3)), data.draw(per_axis(n, 3))
    pads = data.draw(st.lists(st.integers(0, 1), min_size=2 * n, max_size=2 * n))
    more = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    more = [min(m, s - 1) for m, s in zip(more, strides, strict=True)]
    x, w, b = floats(2, 4, *[5] * n), floats(4, 6 // group, *kernel), floats(6)
    inputs, constants = ({"x": x}, {"w": w, "b": b}) if constant else ({"x": x, "w": w, "b": b}, {})
    check(tmp_path, "ConvTranspose", inputs, constants, strides=strides, pads=pads, group=group, output_padding=more)


@given(data=st.data(), n=st.integers(1, 3), ceil=st.booleans())
@random_settings
def test_max_pooling_of_any_window(data: st.DataObject, n: int, ceil: bool, tmp_path: Path) -> None:
    kernel, strides, dilations = (data.draw(per_axis(n, m)) for m in (3, 3, 2))
    padding = data.draw(auto_or_pads(n, min(kernel) - 1))
    if "auto_pad" in padding:  # ONNX Runtime refuses what skips values
        dilations, ceil, strides = [1] * n, False, [min(pair) for pair in zip(kernel, strides, strict=True)]
    x = floats(2, 3, *(7 - i for i in range(n)))
    check(tmp_path, "MaxPool", {"x": x}, kernel_shape=kernel, strides=strides, dilations=dilations,
          ceil_mode=int(ceil), **padding)  # fmt: skip


@given(data=st.data(), n=st.integers(1, 3), ceil=st.booleans(), include=st.booleans())
@random_settings
def test_average_pooling_of_any_window(
    data: st.DataObject, n: int, ceil: bool, include: bool, tmp_path: Path
) -> None:  # fmt: skip
    kernel, strides = data.draw(per_axis(n, 3)), data.draw(per_axis(n, 3))
    padding = data.draw(auto_or_pads(n, min(kernel) - 1))
    if "auto_pad" in padding:
        strides = [min(pair) for pair in zip(kernel, strides, strict=True)]
    x = floats(2, 3, *(7 - i for i in range(n)))
    check(tmp_path, "AveragePool", {"x": x}, kernel_shape=kernel, strides=strides, count_include_pad=int(include),
          ceil_mode=int(ceil and "pads" in padding), opset=22, **padding)  # fmt: skip


def test_global_pooling(tmp_path: Path) -> None:
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        check(tmp_path, op, {"x": image})
