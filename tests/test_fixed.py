"""An artifact for an NPU: free axes have one size each, and the numbers stay."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from edgepress.export.fixed import fix
from edgepress.export.formats import export
from edgepress.runtime import load
from edgepress.runtime.artifact import read_artifact
from edgepress.runtime.errors import EngineError, PortError, UnsupportedError, UsageError
from edgepress.runtime.golden import read_golden

from .commands import edgepress
from .quantize_check import model_of, random
from .tiny_encoders import read_tiny


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


def test_export_prepares_an_artifact_for_a_device_with_an_npu(artifact: Path, perceptron_task: Path, tmp_path: Path):
    said = edgepress("export", artifact, "--on", "sm8650", "--out", tmp_path / "npu")
    assert said.code == 0
    assert "x float32[1, 3]" in said.out
    assert said.err == "MatMul (1): float32 weights, the NPU takes int8, uint8; compress the model with --on sm8650\n"
    again = edgepress("export", artifact, "--on", "sm8650", "--out", tmp_path / "npu")
    assert again.code == 2
    no_artifact = edgepress("export", perceptron_task, "--on", "sm8650", "--out", tmp_path / "other")
    assert no_artifact.code == 2
    assert "is no artifact, which is what --on sm8650 prepares for its NPU" in no_artifact.complaint
    other = edgepress("export", artifact, "--on", "sm8650", "--to", "tflite", "--out", tmp_path / "other")
    assert other.code == 2
    assert (
        "--on sm8650 prepares an ONNX artifact as it is; leave the other options but --lengths out" in other.complaint
    )


@pytest.mark.parametrize("length", [3, 24])
def test_a_text_model_has_the_length_that_was_asked_for(length: int, tmp_path: Path):
    source = export(read_tiny(tmp_path).model, "onnx", tmp_path / "bag")
    fixed = fix(source, tmp_path / "npu", length=length)
    assert {port.shape for port in fixed.inputs} == {(1, length)}
    assert fixed.history[-1].settings == {"sizes": {"batch": 1, "sequence": length}}
    assert load(fixed.path).selftest().passed
    (case,) = read_golden(fixed.path / "golden.npz")
    wanted = load(source.path)(**case.inputs)
    assert all(np.allclose(case.outputs[name], wanted[name], atol=1e-5) for name in wanted)


def test_a_length_that_no_axis_has_is_refused(artifact: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="has no free axis but the first; leave the length 8 out"):
        fix(read_artifact(artifact), tmp_path / "npu", length=8)


def test_a_file_that_computes_other_numbers_is_refused(artifact: Path, tmp_path: Path):
    model = onnx.load(str(artifact / "model.onnx"))
    model.graph.node[0].output[0] = "m"
    model.graph.node.append(helper.make_node("Neg", ["m"], ["y"]))
    onnx.save(model, str(artifact / "model.onnx"))
    with pytest.raises(
        EngineError, match=r"with fixed shapes y comes out 2\.0e\+00 apart from the golden sample, 1e-05"
    ):
        fix(read_artifact(artifact), tmp_path / "npu")
    assert not (tmp_path / "npu").exists()


def test_what_became_constant_is_folded_and_named(tmp_path: Path):
    model = model_of(Numbered(), x=random(2, 3, 4))
    fixed = fix(export(model, "onnx", tmp_path / "net"), tmp_path / "npu")
    assert fixed.history[-1].note.startswith("free axes have one size each; constants folded: ")
    assert "Range (1)" in fixed.history[-1].note
    assert [node.op_type for node in onnx.load(str(fixed.model)).graph.node] == ["Add"]


class Numbered(nn.Module):
    """Each row and its number, however many rows there are."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[0], dtype=x.dtype)[:, None, None]
