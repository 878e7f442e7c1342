from pathlib import Path

from edgepress.compress import onnx_math, onnx_resize
from edgepress.compress.onnx_ops import BEFORE, OPS, function_for


def test_an_operator_means_what_its_opset_says() -> None:
    assert function_for("Softmax", 12) is onnx_math.softmax_flat
    assert function_for("Softmax", 13) is onnx_math.softmax
    assert function_for("Resize", 10) is onnx_resize.resize_10
    assert function_for("LSTM", 21) is None
    assert set(BEFORE) <= set(OPS)


def test_every_operator_is_compared_with_onnx_runtime() -> None:
    parts = ("math", "shaping", "windows", "resize")
    tests = "".join(Path(__file__).with_name(f"test_onnx_{p}.py").read_text(encoding="utf-8") for p in parts)
    assert [op for op in OPS if f'"{op}"' not in tests] == []
