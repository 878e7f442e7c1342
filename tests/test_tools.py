"""Which tool a file is, and what goes with it."""

from pathlib import Path

import pytest

from edgepress.devices.tools import TOOLS, beside, by_format
from edgepress.runtime.errors import UsageError


def test_a_file_is_the_tool_whose_name_it_holds():
    lite, ort = Path("tools/android_aarch64_benchmark_model"), Path("build/onnxruntime_perf_test")
    assert by_format([ort, lite]) == {"onnx": ort, "tflite": lite}
    assert by_format([]) == {}


def test_another_file_is_refused_with_the_names_that_are_known():
    expected = (
        "tools/bench is no benchmark that edgepress knows; expected LiteRT's benchmark_model (tflite) or "
        "ONNX Runtime's onnxruntime_perf_test (onnx), by this name"
    )
    with pytest.raises(UsageError) as refused:
        by_format([Path("tools/bench")])
    assert str(refused.value) == expected


def test_two_tools_of_one_format_are_refused():
    with pytest.raises(UsageError, match=r"a/benchmark_model and b/benchmark_model both run tflite; name one of them"):
        by_format([Path("a/benchmark_model"), Path("b/benchmark_model")])


def test_the_libraries_that_a_tool_may_need_are_those_beside_it(tmp_path):
    for name in ("libonnxruntime.so", "libother.so"):
        (tmp_path / name).touch()
    assert beside("onnx", tmp_path / "onnxruntime_perf_test") == [tmp_path / "libonnxruntime.so"]
    assert beside("tflite", tmp_path / "benchmark_model") == []
    assert {tool.name for tool in TOOLS.values()} == {"benchmark_model", "onnxruntime_perf_test"}
