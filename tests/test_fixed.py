"""An artifact for an NPU: free axes have one size each, the numbers stay, and what does not run there is named."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.devices.device import find_device
from edgepress.export.fixed import fix, untaken
from edgepress.runtime import load
from edgepress.runtime.artifact import read_artifact
from edgepress.runtime.errors import PortError, UnsupportedError
from edgepress.runtime.golden import read_golden

from .commands import edgepress


def test_every_axis_has_the_size_of_the_first_golden_sample(artifact: Path, tmp_path: Path):
    fixed = fix(read_artifact(artifact), tmp_path / "npu")
    assert [str(port) for port in (*fixed.inputs, *fixed.outputs)] == ["x float32[1, 3]", "y float32[1, 2]"]
    assert (fixed.history[-1].name, fixed.history[-1].settings) == ("fix", {"sizes": {"batch": 1}})
    assert (fixed.path / "labels.json").read_bytes() == (artifact / "labels.json").read_bytes()


def test_the_numbers_stay_and_other_sizes_are_refused(make_artifact, tmp_path: Path):
    source = make_artifact("net", depth=2, batch=1)
    fixed = load(fix(source, tmp_path / "npu").path)
    (case,) = read_golden(fixed.artifact.path / "golden.npz")
    assert np.array_equal(fixed(**case.inputs)["y"], load(source.path)(**case.inputs)["y"])
    assert fixed.selftest().passed
    with pytest.raises(PortError, match=r"expected x float32\[1, 64\]"):
        fixed(x=np.ones((2, 64), np.float32))


def test_what_has_no_golden_samples_has_no_sizes(linear: Path, make_artifact, tmp_path: Path):
    with pytest.raises(
        UnsupportedError, match=r"linear\.onnx is a bare file; shapes are fixed for an ONNX artifact with"
    ):
        fix(read_artifact(linear), tmp_path / "npu")


def test_operators_that_the_unit_does_not_take_are_counted_by_name(tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3)) for name in ("x", "y"))
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Erf", ["r"], ["e"])]
    graph = helper.make_graph([*nodes, helper.make_node("Erf", ["e"], ["y"])], "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    npu = find_device("sm8650").npu
    assert npu is not None
    assert untaken(tmp_path / "m.onnx", npu.ops) == {"Erf": 2}


def test_export_prepares_an_artifact_for_a_device_with_an_npu(artifact: Path, perceptron_task: Path, tmp_path: Path):
    said = edgepress("export", artifact, "--on", "sm8650", "--out", tmp_path / "npu")
    assert said.code == 0
    assert "x float32[1, 3]" in said.out
    assert said.err == ""
    again = edgepress("export", artifact, "--on", "sm8650", "--out", tmp_path / "npu")
    assert again.code == 2
    no_artifact = edgepress("export", perceptron_task, "--on", "sm8650", "--out", tmp_path / "other")
    assert no_artifact.code == 2
    assert "is no artifact, which is what --on sm8650 prepares for its NPU" in no_artifact.complaint
    other = edgepress("export", artifact, "--on", "sm8650", "--to", "tflite", "--out", tmp_path / "other")
    assert other.code == 2
    assert "--on sm8650 prepares an ONNX artifact as it is; leave the other options out" in other.complaint


def test_export_names_what_the_npu_does_not_run(artifact: Path, tmp_path: Path):
    model = onnx.load(str(artifact / "model.onnx"))
    model.graph.node[0].output[0] = "m"
    model.graph.node.append(helper.make_node("Erf", ["m"], ["y"]))
    onnx.save(model, str(artifact / "model.onnx"))
    said = edgepress("export", artifact, "--on", "sm8650", "--out", tmp_path / "npu")
    assert said.code == 0
    assert "Erf (1) will not run on the NPU: qnn has no such operator" in said.err
