"""One command gives a file that an NPU takes whole; another prepares one that is there."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.for_npu import in_words, prepare
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.runtime import load
from edgepress.runtime.artifact import read_artifact

from .commands import edgepress
from .tiny_encoders import read_tiny


@pytest.fixture(scope="module")
def out(perceptron_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npu") / "out"
    said = edgepress("compress", perceptron_task, "--on", "sm8650", "--out", folder)
    assert said.code == 0
    assert f"{folder / 'perceptron-int8-npu'} (" in said.out.replace("\n", "")
    assert "the NPU takes" not in said.err
    assert "will not run" not in said.err
    return folder


def test_compress_writes_what_ships_once_more_with_fixed_shapes(out: Path):
    ships, fixed = read_artifact(out / "perceptron-int8"), load(out / "perceptron-int8-npu")
    assert [str(port) for port in ships.inputs] == ["input float32[batch, 64]"]
    assert [str(port) for port in fixed.artifact.inputs] == ["input float32[1, 64]"]
    assert fixed.artifact.history[:-1] == ships.history
    assert fixed.artifact.history[-2].settings["npu"] == ["uint8", "uint16"]
    assert fixed.selftest().passed


def test_what_is_there_is_not_replaced_unasked(out: Path, perceptron_task: Path, tmp_path: Path):
    (tmp_path / "perceptron-int8-npu").mkdir()
    (tmp_path / "perceptron-int8-npu" / "mine.txt").touch()
    said = edgepress("compress", perceptron_task, "--on", "sm8650", "--out", tmp_path)
    assert said.code == 2
    assert "perceptron-int8-npu" in said.complaint
    assert not (tmp_path / "perceptron-int8").exists()


def test_a_file_that_no_longer_ships_does_not_stay(perceptron_task: Path, tmp_path: Path):
    (tmp_path / "perceptron-dull-npu").mkdir()
    recipe = tmp_path / "dull.toml"
    recipe.write_text('[[pass]]\nname = "cluster"\nlayers = ["conv2d"]\n', encoding="utf-8")
    said = edgepress("compress", perceptron_task, "--recipe", recipe, "--on", "sm8650", "--out", tmp_path, "--force")
    assert said.code == 0
    assert not (tmp_path / "perceptron-dull-npu").exists()
    assert (tmp_path / "perceptron-fp32-npu").is_dir()
    assert "float32 weights, the NPU takes int8, uint8" in said.err


def test_json_is_the_report_alone(perceptron_task: Path, tmp_path: Path):
    said = edgepress("compress", perceptron_task, "--on", "sm8650", "--out", tmp_path / "out", "--json")
    assert said.json["ships"] == "perceptron-int8"
    assert (tmp_path / "out" / "perceptron-int8-npu").is_dir()


def test_what_is_not_taken_of_a_float_artifact_is_named(out: Path, tmp_path: Path):
    fixed, lines = prepare(out / "perceptron-fp32", find_device("sm8650"), tmp_path / "npu")
    (line,) = lines
    assert "float32 weights, the NPU takes int8, uint8; compress the model with --on sm8650" in line
    assert in_words(fixed).endswith("input float32[1, 64]; free axes have one size each")


def test_a_text_model_is_fixed_to_the_length_that_is_named_and_takes_shorter_texts(tmp_path: Path):
    free = export(read_tiny(tmp_path).model, "onnx", tmp_path / "bag").path
    said = edgepress("export", free, "--on", "sm8650", "--lengths", 12, "--out", tmp_path / "npu")
    assert "input_ids int64[1, 12]" in said.out
    text = ("--text", "w1 w2 w3", "--json")
    said = [json.loads(edgepress("run", path, *text).out) for path in (tmp_path / "npu", free)]
    found, wanted = (outputs["sentence_embedding"]["values"] for outputs in said)
    assert np.allclose(found, wanted, atol=1e-5)
    said = edgepress("run", tmp_path / "npu", "--text", "w1 " * 20)
    assert said.code == 2
    assert "int64[1, 12]" in said.complaint
    said = edgepress("export", free, "--on", "sm8650", "--lengths", "16,64", "--out", tmp_path / "two")
    assert (
        said.complaint == "--lengths 16,64: for an NPU every axis has one size; expected one number from 1 on, as 128"
    )
