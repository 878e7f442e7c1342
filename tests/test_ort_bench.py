"""What onnxruntime_perf_test is asked for and what it prints; a stand-in for it runs in test_adb.

The options are those of microsoft/onnxruntime, onnxruntime/test/perftest/command_args_parser.cc (commit 011738ce4c),
the lines those that performance_runner.cc prints (Run, DumpToFile; commit 77e6dc9a37). The tool was not to be had.
"""

import numpy as np
import pytest

from edgepress.devices.ort_bench import arguments, complaint, read_told, shapes
from edgepress.devices.tool_bench import Call
from edgepress.runtime.artifact import GOLDEN, Artifact, Port, describe, read_artifact
from edgepress.runtime.errors import DeviceError
from edgepress.runtime.golden import Case, write_golden

# The lines of a call of three runs, and below them its file of results.
SAID = """\
Setting intra_op_num_threads to 1
Overriding dimension with name, batch, to 1
Session creation time cost: 0.0508382 s
First inference time cost: 21 ms
Total inference time cost: 0.0604 s
Total inference requests: 3
Average inference time cost: 20.1333 ms
Total inference run time: 0.0605 s
Number of inferences per second: 49.5868
Avg CPU usage: 12 %
Peak working set size: 109531136 bytes

linear, fp32,0.02,109531136,12,0
linear, fp32,0.0204,109531136,12,1
linear, fp32,0.02,109531136,12,2
"""


def asked(artifact: Artifact, threads: int | None = None) -> list[str]:
    return arguments(Call(artifact, "/there/model.onnx", 30, 3.0, threads, watched=True))


def test_every_run_is_read_with_the_load_the_first_run_and_the_memory():
    told = read_told(SAID)
    assert told.samples == pytest.approx((20, 20.4, 20))
    assert (told.load_ms, told.first_ms) == (pytest.approx(50.8382), 21)
    assert (told.peak_memory, told.averaged) == (109531136, None)


def test_small_figures_and_a_tool_that_tells_less_are_read_too():
    assert read_told("m,1.25e-05,1000,-1,0").samples == (pytest.approx(0.0125),)
    told = read_told("Total time cost:58.8053\nm,0.058,1000,12,0\n")
    assert (told.load_ms, told.first_ms, told.samples) == (None, None, (pytest.approx(58),))


@pytest.mark.parametrize("said", ["", "hello\n", SAID[: SAID.index("linear")]])
def test_an_answer_of_something_else_is_told(said):
    with pytest.raises(DeviceError, match=r"not understood \(it ends with .*; expected a line for each run of"):
        read_told(said)


def test_the_last_line_tells_what_failed_unless_it_only_names_the_help():
    assert complaint("Setting intra_op_num_threads to 1\nRun failed:failed to initialize.\n") == (
        "Run failed:failed to initialize."
    )
    unknown = "onnxruntime_perf_test: invalid option -- 'I'"
    assert complaint(f"{unknown}\nSee 'onnxruntime_perf_test --help'.") == unknown
    assert complaint("See 'onnxruntime_perf_test --help'.") == "See 'onnxruntime_perf_test --help'."
    assert complaint("") == ""


def test_free_axes_have_the_sizes_of_the_golden_sample(artifact, make_artifact):
    one, two = read_artifact(artifact), make_artifact("base", batch=2)
    assert " ".join(asked(one)) == "-I -S 1 -m times -r 30 -f batch:1 /there/model.onnx results"
    assert " ".join(asked(two, 4)) == "-I -S 1 -m times -r 30 -x 4 -f batch:2 /there/model.onnx results"
    assert (shapes(one), shapes(two)) == ({"x": (1, 3)}, {"x": (2, 64)})


def test_without_a_golden_sample_they_are_1_as_the_tool_makes_them(linear, make_artifact):
    bare, none = read_artifact(linear), make_artifact("base", golden=False)
    for one in (bare, none):
        assert "-f" not in asked(one)
    assert (shapes(bare), shapes(none)) == ({"x": (1, 3)}, {"x": (1, 64)})


def test_an_axis_that_the_tool_cannot_name_is_1_and_is_told_so(tmp_path):
    """`-f` parts axes at blanks, and the name from the size at the first colon; `?` stands for no name."""
    zeros = {name: np.zeros((2, 3), np.float32) for name in "xyz"}
    write_golden(tmp_path / GOLDEN, [Case(zeros, zeros)])
    ports = Port("x", "float32", ("batch", "past + 1")), Port("y", "float32", ("?", 3)), Port("z", "float32", ())
    (tmp_path / "model.onnx").touch()
    files = (describe(tmp_path / "model.onnx"), describe(tmp_path / GOLDEN, "golden"))
    artifact = Artifact(tmp_path, "onnx", files, ports)
    assert [part for part in asked(artifact) if ":" in part] == ["batch:2"]
    assert shapes(artifact) == {"x": (2, 1), "y": (1, 3), "z": ()}
