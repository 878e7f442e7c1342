"""Constant weights become the layers that the passes know, and compute the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from torch import nn

from edgepress.compress.onnx_graph import read_onnx

from .onnx_check import INT64, assert_same, check, floats, image, layers_of, positive, write, x34, x234

table, index = floats(9, 4), np.array([[1, 0], [1, 3]])


@pytest.mark.parametrize(
    ("op", "args", "more", "layer"),
    [
        ("Gemm", ({"x": x34}, {"w": floats(5, 4), "b": floats(5)}), {"transB": 1, "alpha": 0.5, "beta": 2.0}, "Linear"),
        ("Gemm", ({"x": x34}, {"w": floats(4, 5), "b": floats(1, 5)}), {}, "Linear"),
        ("Gemm", ({"x": x34}, {"w": floats(4, 5)}), {}, "Linear"),
        ("MatMul", ({"x": x234}, {"w": floats(4, 5)}), {}, "Linear"),
        ("Gather", ({"i": index}, {"w": table}), {"order": ["w", "i"]}, "Embedding"),
        ("LayerNormalization", ({"x": x234}, {"w": floats(4), "b": floats(4)}), {"epsilon": 1e-3}, "LayerNorm"),
        ("LayerNormalization", ({"x": x234}, {"w": floats(4)}), {"axis": 2}, "LayerNorm"),
        ("Conv", ({"x": image}, {"w": floats(8, 4, 3, 3)}), {}, "Conv2d"),
        ("ConvTranspose", ({"x": image}, {"w": floats(4, 2, 3, 3)}), {}, "ConvTranspose2d"),
    ],
)
def test_constant_weights_become_layers(op: str, args: Any, more: dict[str, Any], layer: str, tmp_path: Path) -> None:
    model = check(tmp_path, op, *args, **more)
    assert list(layers_of(model).values()) == [layer]


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((2, 4), "BatchNorm1d"),
        ((2, 4, 5), "BatchNorm1d"),
        ((2, 4, 5, 6), "BatchNorm2d"),
        ((2, 4, 2, 3, 2), "BatchNorm3d"),
    ],
)
def test_batch_normalization_knows_its_rank(shape: tuple[int, ...], layer: str, tmp_path: Path) -> None:
    constants = {"w": positive(4), "b": floats(4), "m": floats(4), "v": positive(4)}
    model = check(tmp_path, "BatchNormalization", {"x": floats(*shape)}, constants, epsilon=1e-3)
    assert list(layers_of(model).values()) == [layer]
    assert not model.module.training


def test_tied_matrices_stay_tied_and_shared_biases_part(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table.weight", "i"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("LayerNormalization", ["q", "b", "b"], ["n"]),
        helper.make_node("Transpose", ["table.weight"], ["t"]),
        helper.make_node("MatMul", ["n", "t"], ["y"], "head"),
    ]
    constants = {"table.weight": table, "w": floats(4, 4), "b": floats(4)}
    path = write(tmp_path / "m.onnx", nodes, {"i": (INT64, (2, 2))}, {"y": 1}, constants)
    model = read_onnx(path)
    assert_same(path, model, {"i": index})
    module = model.module
    assert module.get_submodule("table").weight is module.get_submodule("head").weight
    norm = next(m for m in module.modules() if isinstance(m, nn.LayerNorm))
    assert norm.weight.data_ptr() != norm.bias.data_ptr()
