import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from edgepress.compress.facts import artifact_facts, family_facts
from edgepress.runtime.artifact import read_artifact, write_manifest
from edgepress.runtime.errors import ArtifactError, EngineError
from edgepress.runtime.family import Family, Measured, member_of, write_family

from .tflite_check import Graph, build


def test_everything_in_the_manifest_is_told(artifact: Path):
    facts = artifact_facts(artifact)
    assert facts["path"] == str(artifact)
    assert facts["format"] == "onnx"
    assert facts["bytes"] == (artifact / "model.onnx").stat().st_size
    assert facts["inputs"] == ["x float32[batch, 3]"]
    assert facts["outputs"] == ["y float32[batch, 2]"]
    assert facts["history"] == [{"name": "train", "settings": {"epochs": 3, "sizes": [1, 2]}, "note": "by hand"}]
    assert facts["source"] == {"kind": "test", "sha256": "0" * 64}
    assert facts["tools"] == {"numpy": version("numpy")}
    assert facts["tolerance"] == 1e-5
    assert "unknown" not in facts


def test_each_file_is_told_with_its_size_its_role_and_its_hash(artifact: Path):
    files = artifact_facts(artifact)["files"]
    assert {name: file["role"] for name, file in files.items()} == {
        "model.onnx": "model", "golden.npz": "golden", "labels.json": "asset",
    }  # fmt: skip
    for name, file in files.items():
        content = (artifact / name).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_operators_are_counted(artifact: Path, make_artifact):
    assert artifact_facts(artifact)["operators"] == {"MatMul": 1}
    assert artifact_facts(make_artifact("deep", depth=3).path)["operators"] == {"MatMul": 4, "Relu": 3}


def test_what_a_bare_file_cannot_tell_is_said(linear: Path):
    facts = artifact_facts(linear)
    assert facts["inputs"] == ["x float32[batch, 3]"]
    assert facts["operators"] == {"MatMul": 1}
    assert facts["files"].keys() == {"linear.onnx"}
    assert facts["unknown"] == "history, source, golden samples: a bare file has no manifest"
    assert not {"history", "source", "tools", "tolerance"} & facts.keys()


def test_the_facts_are_plain_json(artifact: Path, linear: Path):
    for path in (artifact, linear):
        assert json.loads(json.dumps(artifact_facts(path), allow_nan=False)) == artifact_facts(path)


def test_without_the_onnx_package_the_operators_are_unknown_and_the_rest_is_told(linear: Path):
    script = f"""
import json, sys
sys.modules["onnx"] = None  # an import of it fails, as where it is not installed
from pathlib import Path
from edgepress.compress.facts import artifact_facts
print(json.dumps(artifact_facts(Path({str(linear)!r}))))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    facts = json.loads(run.stdout)
    assert facts["operators"].startswith("unknown: the onnx package is not installed")
    assert "pip install 'edgepress[compress]'" in facts["operators"]
    assert facts["outputs"] == ["y float32[batch, 2]"]


def test_a_file_that_changed_since_the_export_is_refused(artifact: Path):
    (artifact / "labels.json").write_text('["b", "a"]', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"labels\.json was changed or damaged since the export"):
        artifact_facts(artifact)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_bare_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot open .*x\.onnx"):
        artifact_facts(tmp_path / "x.onnx")


def test_half_a_file_is_refused(tmp_path: Path, linear: Path):
    content = linear.read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineError, match=r"cannot open .*half\.onnx"):
        artifact_facts(tmp_path / "half.onnx")


def test_a_tflite_file_tells_its_operators_without_the_onnx_package(tmp_path: Path):
    facts = artifact_facts(build(tmp_path / "one.tflite", Graph((1, 3), "run")))
    assert facts["format"] == "tflite"
    assert facts["operators"] == {"ADD": 1}
    assert facts["inputs"] == ["x float32[1, 3]"]


def test_a_gguf_file_tells_its_network_and_its_types(llama, minilm_gguf: Path):
    facts = artifact_facts(llama[0])
    told = {name: facts[name] for name in ("architecture", "parameters", "context length", "vocabulary")}
    weights = sum(weight.numel() for weight in llama[1].state_dict().values())
    assert told == {"architecture": "llama", "parameters": weights, "context length": 256, "vocabulary": 512}
    assert facts["tensors"] == {"F32": {"tensors": len(llama[1].state_dict()), "bytes": 4 * weights}}
    assert (facts["bits per weight"], facts["chat template"]) == (32.0, "yes")
    assert "operators" not in facts
    assert artifact_facts(minilm_gguf)["chat template"] == "no"
    json.dumps(facts)


def test_what_a_file_needs_is_told(artifact: Path):
    assert "needs" not in artifact_facts(artifact)
    write_manifest(replace(read_artifact(artifact), needs={"lengths": {"batch": [1]}}))
    assert artifact_facts(artifact)["needs"] == {"lengths": {"batch": [1]}}


def test_a_family_is_told_with_the_facts_of_each_member(artifact: Path, tmp_path: Path):
    folder = tmp_path / "fam"
    shutil.copytree(artifact, folder / "onnx")
    place = Measured("host", "x86_64", "a processor", 2, None)
    write_family(Family(folder, {"onnx": member_of(read_artifact(folder / "onnx"), 0.25)}, place, {"seen": 1}))
    facts = family_facts(folder)
    assert facts["members"] == {"onnx": artifact_facts(folder / "onnx")}
    assert (facts["path"], facts["p50_ms"], facts["parity"]) == (str(folder), {"onnx": 0.25}, {"seen": 1})
    assert facts["measured"] == {"device": "host", "arch": "x86_64", "cpu": "a processor", "cores": 2, "threads": None}
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    shutil.rmtree(folder / "onnx")
    with pytest.raises(ArtifactError, match="fam/onnx is missing"):
        family_facts(folder)
