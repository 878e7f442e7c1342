"""Operators that move values and compute sizes against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from edgepress.compress.onnx_graph import read_onnx

from .onnx_check import (
    INT32,
    INT64,
    Arrays,
    assert_same,
    case,
    check,
    floats,
    image,
    ints,
    scalar,
    write,
    x34,
    x234,
)

bits = floats(3, 4) > 0


table, index = floats(9, 4), np.array([[1, 0], [-1, 3]])

CASES = [
    case("Trilu", {"x": x234}),
    case("Trilu", {"x": x234}, {"k": np.array(-1)}, upper=0),
    case("EyeLike", {"x": x34}, k=1),
    case("TopK", {"x": x234}, {"k": ints(2)}, outputs=2, axis=1),
    case("TopK", {"x": x234}, {"k": ints(2)}, outputs=2, largest=0),
    case("Flatten", {"x": x234}),
    case("Flatten", {"x": x234}, axis=-1),
    case("Flatten", {"x": x234}, axis=0),
    case("Reshape", {"x": x234}, {"shape": ints(0, -1)}),
    case("Reshape", {"x": x234}, {"shape": ints(4, 3, 2)}, allowzero=1),
    case("Transpose", {"x": x234}, perm=[2, 0, 1]),
    case("Transpose", {"x": x234}),
    case("Squeeze", {"x": floats(1, 3, 1)}),
    case("Squeeze", {"x": floats(1, 3, 1)}, {"axes": ints(-1)}),
    case("Squeeze", {"x": floats(1, 3, 1)}, axes=[0], opset=11),
    case("Unsqueeze", {"x": x34}, {"axes": ints(0, -1)}),
    case("Unsqueeze", {"x": x34}, axes=[1, 3], opset=11),
    case("Concat", {"a": x234, "b": floats(2, 1, 4)}, {"c": floats(2, 2, 4)}, axis=1),
    case("Split", {"x": x234}, {"split": ints(1, 3)}, outputs=2, axis=-1),
    case("Split", {"x": x234}, outputs=2, axis=2, split=[1, 3], opset=11),
    case("Split", {"x": x234}, outputs=2, axis=2, opset=13),
    case("Split", {"x": floats(2, 7)}, outputs=3, axis=1, num_outputs=3),
    case("Slice", {"x": image}, {"s": ints(1, -3), "e": ints(2**63 - 1, -1), "a": ints(1, 3)}),
    case("Slice", {"x": image}, {"s": ints(6, 0), "e": ints(-(2**63), 5), "a": ints(2, -1), "t": ints(-2, 3)}),
    case("Slice", {"x": image}, {"s": ints(99, -2), "e": ints(1, -5), "a": ints(2, -1), "t": ints(-1, -1)}),
    case("Slice", {"x": x34}, starts=[1, 0], ends=[3, -1], opset=9),
    case("Gather", {"x": table, "i": index}),
    case("Gather", {"x": x234}, {"i": ints(2, 0)}, axis=1),
    case("Gather", {"x": x234}, {"i": np.array(-1)}, axis=1),
    case("Gather", {"x": x234}, {"i": index}, axis=-1),
    case("GatherElements", {"x": x34}, {"i": np.array([[1, -1, 0, 2]])}),
    case("GatherND", {"x": x234}, {"i": np.array([[1, 2], [0, -1]])}),
    case("GatherND", {"x": x234}, {"i": np.array([[[2, 1]], [[0, 3]]])}, batch_dims=1),
    case("ScatterND", {"x": x34}, {"i": np.array([[2], [0]]), "u": floats(2, 4)}),
    case("ScatterElements", {"x": x34}, {"i": np.array([[1, -1, 0, 2]]), "u": floats(1, 4)}),
    case("Expand", {"x": floats(3, 1)}, {"shape": ints(2, 1, 4)}),
    case("Tile", {"x": x34}, {"r": ints(2, 3)}),
    case("ConstantOfShape", {}, {"shape": ints(2, 3)}),
    case("Range", {}, {"a": np.array(1), "b": np.array(9), "c": np.array(3)}, out=INT64),
    case("Range", {}, {"a": scalar(1), "b": scalar(2), "c": scalar(0.25)}),
    case("Shape", {"x": x234}, out=INT64),
    case("Shape", {"x": x234}, out=INT64, start=-2, end=-1),
    case("Size", {"x": x234}, out=INT64),
    case("Cast", {"x": x34 * 3}, to=INT32, out=INT32),
    case("Cast", {"x": bits}, to=TensorProto.FLOAT),
    case("Cast", {"x": x34}, to=TensorProto.FLOAT16, out=TensorProto.FLOAT16),
    case("Dropout", {"x": x34}),
    case("Dropout", {"x": x34}, ratio=0.3, opset=11),
    case("Pad", {"x": x34}, {"pads": ints(1, 0, 0, 2)}),
    case("Pad", {"x": x34}, {"pads": ints(1, 0, 0, 2), "value": scalar(7)}),
    case("Pad", {"x": image}, {"pads": ints(1, 2), "value": scalar(7), "axes": ints(-2)}),
    case("Pad", {"x": image}, {"pads": ints(0, 0, 1, -2, 0, 0, 2, 1)}),
    case("Pad", {"x": image}, {"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
    case("Pad", {"x": image}, {"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="edge"),
    case("Pad", {"x": x34, "value": scalar(7)}, {"pads": ints(1, 0, 0, 2)}, order=["x", "pads", "value"]),
    case("Pad", {"x": x34}, {"pads": ints(1, 0, 0, 2), "value": scalar(7).reshape(1)}),
    case("Pad", {"x": x34}, opset=10, pads=[1, 0, 0, 2], value=3.0),
    case("DepthToSpace", {"x": image}, blocksize=2),
    case("DepthToSpace", {"x": image}, blocksize=2, mode="CRD"),
    case("SpaceToDepth", {"x": floats(1, 3, 4, 6)}, blocksize=2),
    case("CastLike", {"x": x34, "t": ints(1)}, out=INT64),
]


@pytest.mark.parametrize(("op", "args", "more"), CASES)
def test_attributes(op: str, args: tuple[Arrays, ...], more: dict[str, Any], tmp_path: Path) -> None:
    check(tmp_path, op, *args, **more)


def test_sizes_computed_as_tensors_stay_free(tmp_path: Path) -> None:
    """(n, c, h, w) -> (n, h * w, c), as TensorFlow's converter writes it: Shape, Cast to int32, Gather, Mul, Concat."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s64"]),
        helper.make_node("Cast", ["s64"], ["s"], to=INT32),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Gather", ["s", "three"], ["w"]),
        helper.make_node("Mul", ["h", "w"], ["hw"]),
        helper.make_node("Unsqueeze", ["hw", "zero"], ["hw1"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n1"]),
        helper.make_node("Slice", ["s", "one", "two1"], ["c1"]),
        helper.make_node("Concat", ["n1", "c1", "hw1"], ["target32"], axis=0),
        helper.make_node("Cast", ["target32"], ["target"], to=INT64),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]
    constants = {"zero": ints(0), "one": ints(1), "two1": ints(2), "two": np.array(2), "three": np.array(3)}
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, ("n", 3, "h", "w"))}, {"y": 1, "target32": INT32}, constants)
    model = read_onnx(path)
    assert_same(path, model, {"x": floats(4, 3, 5, 6)})
    shapes = {"x": dict.fromkeys(model.axes["x"], torch.export.Dim.AUTO)}
    module = torch.export.export(model.module, (), dict(model.example), dynamic_shapes=shapes).module()
    y, _ = module(x=torch.randn(5, 3, 7, 9))
    assert y.shape == (5, 63, 3)
