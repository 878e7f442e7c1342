"""The program that says on a device where nodes run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.runtime.errors import EngineError, UnsupportedError
from edgepress.runtime.place import example, main, place
from edgepress.runtime.placement import from_json

from .tflite_check import Graph, build


def test_an_artifact_is_placed_by_its_golden_sample(make_artifact):
    artifact = make_artifact("net", batch=3)
    assert example(artifact)["x"].shape == (3, 64)
    found = place(artifact.path, threads=1, runs=2)
    assert found.share("cpu") == 1
    assert found.ms["cpu"] > 0


def test_a_bare_file_is_placed_by_invented_inputs(linear: Path):
    assert place(linear, runs=1).counts() == {"cpu": 1}


def test_of_a_tflite_file_no_times_are_told(tmp_path: Path):
    found = place(build(tmp_path / "m.tflite", Graph((1, 3), "run")))
    assert (found.counts(), found.ms, found.asked) == ({"xnnpack": 1}, {}, ("xnnpack", "cpu"))


def test_a_format_whose_engine_names_no_nodes_is_refused(llama):
    with pytest.raises(UnsupportedError, match=r"is in the format gguf, which names no nodes; onnx, tflite do"):
        place(llama[0])


def test_a_provider_that_is_not_here_is_named_with_where_it_comes_from(linear: Path):
    with pytest.raises(EngineError, match="acl is not in this build of ONNX Runtime; builds with --use_acl have it"):
        place(linear, providers=["acl", "cpu"])


def test_the_program_prints_what_the_function_finds(linear: Path):
    command = [sys.executable, "-m", "edgepress.runtime.place", str(linear), "--threads", "1", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert from_json(done.stdout).counts() == {"cpu": 1}
    assert json.loads(done.stdout)["nodes"][0]["op"] == "MatMul"


def test_the_program_says_in_a_line_what_is_wrong(linear: Path, capsys):
    assert main([str(linear), "--provider", "tpu"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("unknown execution provider 'tpu'; known: acl, ")
