"""Arithmetic, activations, reductions and norms against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .onnx_check import BOOL, INT64, Arrays, case, check, floats, image, ints, positive, scalar, x34, x234

bits = floats(3, 4) > 0


with_nan = np.array([[1, np.nan], [np.inf, -np.inf]], np.float32)


UNARY = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin",
         "Softplus", "Softsign", "Tanh", "Tan", "Atan", "Identity", "HardSwish", "Mish", "Elu", "Selu", "LeakyRelu",
         "HardSigmoid", "Celu", "ThresholdedRelu", "Asinh", "Cosh", "Sinh"]  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"x": x34 * 3})


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Asin", "Acos", "Atanh"])
def test_unary_operators_of_a_part_of_the_numbers(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"x": np.clip(positive(3, 4), 0.1, 0.9)})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod"])
@pytest.mark.parametrize("shape", [(3, 4), (4,), (3, 1), ()])
@pytest.mark.parametrize("constant", [True, False])
def test_binary_operators_broadcast(op: str, shape: tuple[int, ...], constant: bool, tmp_path: Path) -> None:
    a, b = positive(3, 4), positive(*shape)
    more = {"fmod": 1} if op == "Mod" else {}
    check(tmp_path, op, {"a": a} if constant else {"a": a, "b": b}, {"b": b} if constant else {}, **more)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"])
def test_binary_operators_on_integers(op: str, tmp_path: Path) -> None:
    a, b = np.arange(-6, 6).reshape(3, 4), ints(2, -3, 4, -5)
    check(tmp_path, op, {"a": a}, {"b": b}, out=INT64)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"a": np.round(x34)}, {"b": scalar(1)}, out=BOOL)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str, tmp_path: Path) -> None:
    check(tmp_path, op, {"a": bits}, {"b": bits[:1]}, out=BOOL)


CASES = [
    case("Not", {"x": bits}, out=BOOL),
    case("IsNaN", {"x": with_nan}, out=BOOL),
    case("IsInf", {"x": with_nan}, out=BOOL),
    case("LeakyRelu", {"x": x34}, alpha=0.3),
    case("Elu", {"x": x34}, alpha=0.3),
    case("Selu", {"x": x34}, alpha=1.2, gamma=0.7),
    case("HardSigmoid", {"x": x34 * 4}, alpha=1 / 6, beta=0.5),
    case("Gelu", {"x": x34}, opset=20),
    case("Gelu", {"x": x34}, opset=20, approximate="tanh"),
    case("PRelu", {"x": image}, {"slope": floats(4, 1, 1)}),
    case("Clip", {"x": x34}, {"min": scalar(-0.5), "max": scalar(0.5)}),
    case("Clip", {"x": x34, "min": scalar(-0.5)}, {"max": scalar(0.5)}),
    case("Clip", {"x": x34}, {"max": scalar(0.5)}, order=["x", "", "max"]),
    case("Clip", {"x": x34}, opset=6, min=0.0, max=6.0),
    case("Softmax", {"x": x234}, axis=1),
    case("Softmax", {"x": x234}, axis=1, opset=11),
    case("LogSoftmax", {"x": x234}, axis=-1),
    case("LogSoftmax", {"x": x234}, axis=1, opset=11),
    case("Where", {"c": bits, "x": x34}, {"y": scalar(-3)}),
    case("Where", {"c": bits, "y": x34}, {"x": scalar(-3)}, order=["c", "x", "y"]),
    case("ReduceMean", {"x": x234}, axes=[1, -1], keepdims=0, opset=17),
    case("ReduceMean", {"x": x234}, {"axes": ints(-1)}),
    case("ReduceMean", {"x": x234}),
    case("ReduceSum", {"x": x234}, {"axes": ints(0, 2)}, keepdims=0),
    case("ReduceSum", {"x": x234}, noop_with_empty_axes=1),
    case("ReduceSum", {"x": x234}, axes=[1], opset=11),
    case("ReduceMax", {"x": x234}, {"axes": ints(1)}),
    case("ReduceMin", {"x": x234}, {"axes": ints(1)}, keepdims=0),
    case("ReduceL1", {"x": x234}, {"axes": ints(-1)}),
    case("ReduceL2", {"x": x234}, {"axes": ints(-1)}),
    case("ReduceSumSquare", {"x": x234}, {"axes": ints(1, 2)}),
    case("ReduceLogSumExp", {"x": x234}, {"axes": ints(1)}),
    case("Pow", {"x": x34}, {"e": ints(2, 3, 0, 1)}),
    case("ReduceLogSum", {"x": positive(2, 3)}, {"axes": ints(1)}),
    case("Acosh", {"x": positive(3, 4) + 1}),
    case("LpNormalization", {"x": np.zeros((2, 3), np.float32)}),
    case("ReduceProd", {"x": x234}, {"axes": ints(0, 2)}, keepdims=0),
    case("ArgMax", {"x": np.round(x234)}, axis=1, keepdims=0, out=INT64),
    case("ArgMax", {"x": np.round(x234)}, axis=-1, select_last_index=1, out=INT64),
    case("ArgMin", {"x": np.round(x234)}, axis=2, out=INT64),
    case("CumSum", {"x": x234}, {"axis": np.array(1)}),
    case("CumSum", {"x": x234}, {"axis": ints(-1)}, exclusive=1, reverse=1),
    case("MatMul", {"a": x234, "b": floats(4, 5)}),
    case("MatMul", {"a": x234}, {"b": floats(2, 4, 5)}),
    case("Gemm", {"a": x34, "b": floats(5, 4), "c": floats(5)}, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", {"a": x34}, {"b": floats(3, 5), "c": floats(4, 5)}, transA=1),
    case("Gemm", {"a": x34}, {"b": floats(4, 5), "c": floats(3, 1)}),
    case("Gemm", {"a": x34}, {"b": floats(4, 5), "c": scalar(2)}),
    case("Einsum", {"a": x234, "b": x234}, equation="bij,bkj->bik"),
    case("LayerNormalization", {"x": x234}, {"w": floats(3, 4), "b": floats(3, 4)}, axis=1),
    case("LayerNormalization", {"x": x234, "w": floats(4)}, epsilon=1e-3),
    case("InstanceNormalization", {"x": image}, {"w": floats(4), "b": floats(4)}),
    case("GroupNormalization", {"x": image}, {"w": floats(4), "b": floats(4)}, opset=21, num_groups=2),
    case("GroupNormalization", {"x": image}, {"w": floats(2), "b": floats(2)}, opset=18, num_groups=2),
    case("BatchNormalization", {"x": image, "w": positive(4)}, {"b": floats(4), "m": floats(4), "v": positive(4)}),
    case("LpNormalization", {"x": x234}, axis=1, p=1),
    case("LRN", {"x": image}, size=3),
    case("RMSNormalization", {"x": x234}, {"w": floats(4)}, opset=23),
    case("Swish", {"x": x34}, opset=24, alpha=0.5),
]


@pytest.mark.parametrize(("op", "args", "more"), CASES)
def test_attributes(op: str, args: tuple[Arrays, ...], more: dict[str, Any], tmp_path: Path) -> None:
    check(tmp_path, op, *args, **more)
