"""`explain ARTIFACT`: the engine's record joined with what each node counts, and the gate."""

import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.compress.placed import misses, place_on, read_gate, shares, with_macs
from edgepress.devices.device import find_device
from edgepress.runtime.artifact import read_artifact
from edgepress.runtime.errors import DeviceError, MissingExtra, UnknownName, UnsupportedError, UsageError
from edgepress.runtime.placement import Placed, Placement
from edgepress.runtime.session import load

from .commands import edgepress
from .tflite_check import Graph, build

HOST = find_device("host")


def on_cpu(*nodes: tuple[str, str]) -> Placement:
    return Placement(tuple(Placed(name, op, "cpu", "cpu") for name, op in nodes))


def test_every_multiply_accumulate_of_an_artifact_finds_its_node(make_artifact):
    found = place_on(make_artifact("net", width=32, depth=2, batch=2).path, HOST)
    assert dict(found.macs()) == {"cpu": 2 * (64 * 32 + 32 * 32 + 32 * 10)}
    assert found.lost == 0
    assert found.ms["cpu"] > 0


def test_nodes_without_names_are_told_apart_in_a_copy(tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 3, 3)) for name in ("x", "y"))
    nodes = [helper.make_node("MatMul", ["x", "x"], ["m"]), helper.make_node("MatMul", ["m", "x"], ["y"])]
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(nodes, "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    content = path.read_bytes()
    found = place_on(path, HOST)
    assert [(node.name, node.macs) for node in found.nodes] == [("MatMul_0", 27), ("MatMul_1", 27)]
    assert path.read_bytes() == content


def test_a_node_is_known_by_the_name_that_fusion_and_layout_left_of_it():
    placement = on_cpu(("a/MatMulAddFusion", "Gemm"), ("b_token_3", "Conv"), ("c_token_1", "Transpose"), ("c", "Conv"))
    found = with_macs(placement, {"a": 1, "b": 2, "c": 4})
    assert [node.macs for node in found.nodes] == [1, 2, None, 4]
    assert found.lost == 0


def test_a_name_that_only_looks_fused_is_taken_as_it_is():
    assert with_macs(on_cpu(("b_token_3", "Conv")), {"b_token_3": 5}).nodes[0].macs == 5


def test_what_the_engine_runs_under_another_name_is_lost_and_on_no_unit():
    found = with_macs(on_cpu(("a", "Conv")), {"a": 1, "gone": 3})
    assert (found.lost, found.share("cpu")) == (3, 0.25)


def test_operators_of_a_tflite_file_are_counted(tmp_path: Path):
    found = place_on(build(tmp_path / "m.tflite", Graph((1, 3), "run")), HOST)
    assert (found.share("xnnpack"), found.ms) == (1, {})


def test_the_shares_of_a_session_are_those_of_its_multiply_accumulates(make_artifact, tmp_path: Path):
    model = onnx.load(str(make_artifact("net", width=32, depth=2).model))
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    onnx.save(model, str(tmp_path / "m.onnx"))
    nodes = load(tmp_path / "m.onnx").placement.nodes
    nodes = [replace(node, unit="npu") if node.name == "node_0" else node for node in nodes]
    found = shares(read_artifact(tmp_path / "m.onnx"), nodes)
    on_npu, on_cpu = 64 * 32, 32 * 32 + 32 * 10
    assert found == {"npu": pytest.approx(on_npu / (on_npu + on_cpu)), "cpu": pytest.approx(on_cpu / (on_npu + on_cpu))}


def test_a_file_without_any_multiply_accumulate_has_no_shares(tmp_path: Path):
    artifact = read_artifact(build(tmp_path / "m.tflite", Graph((1, 3), "run")))
    assert shares(artifact, (Placed("y", "ADD", "cpu", "cpu"),)) == {}


def test_what_cannot_be_counted_is_refused_by_name(linear: Path, llama, monkeypatch):
    nameless = read_artifact(linear)
    with pytest.raises(UnsupportedError, match="no names of their own; edgepress explain names them in a copy"):
        shares(nameless, load(linear).placement.nodes)
    with pytest.raises(UnsupportedError, match="nobody counts the multiply-accumulates of the format gguf"):
        shares(read_artifact(llama[0]), ())
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"onnx is not installed; .*edgepress\[compress\]"):
        shares(nameless, ())


def test_a_device_without_an_address_cannot_tell(linear: Path):
    with pytest.raises(DeviceError, match="pi5 has no address, so no engine can tell; name a device with one"):
        place_on(linear, find_device("pi5"))


@pytest.mark.parametrize("text", ["npu", "npu=", "npu=95", "=95%", "npu=101%", "npu=-1%"])
def test_a_gate_that_cannot_be_read_shows_one_that_can(text: str):
    with pytest.raises(UsageError, match=r"--require-unit .*: expected a unit and its share of the work, as npu=95%"):
        read_gate(text)


def test_a_gate_names_a_unit_or_a_provider():
    assert read_gate("") is None
    assert read_gate("NPU = 95 %") == ("npu", 0.95)
    assert read_gate("openvino=99.5%") == ("openvino", 0.995)
    with pytest.raises(UnknownName, match=r"unknown unit 'tpu'; known: .*npu"):
        read_gate("tpu=95%")


def test_a_gate_that_is_missed_says_by_how_much():
    placement = with_macs(on_cpu(("a", "Conv")), {"a": 1})
    assert misses(placement, None) == ""
    assert misses(placement, ("cpu", 1.0)) == ""
    assert misses(placement, ("npu", 0.95)) == "0.0% of the multiply-accumulates on npu, 95.0% required"


def test_explain_tells_an_artifacts_placement_and_is_a_gate(make_artifact):
    path = make_artifact("net").path
    said = edgepress("explain", path, "--require-unit", "cpu=100%")
    assert said.code == 0
    assert f"{path} on host: 3 nodes" in said.out
    assert "2,368  100.0%" in said.out
    missed = edgepress("explain", path, "--require-unit", "npu=95%")
    assert missed.code == 1
    assert "missed: 0.0% of the multiply-accumulates on npu, 95.0% required" in missed.out


def test_explain_gives_json(linear: Path):
    said = edgepress("explain", linear, "--json", "--require-unit", "npu=1%")
    assert said.code == 1
    assert said.json["providers"]["cpu"]["macs"] == 6
    assert said.json["nodes"][0]["op"] == "MatMul"
    assert said.json["missed"].startswith("0.0% of the multiply-accumulates")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "qnn"], "qnn is not in this build of ONNX Runtime; it comes with: pip install onnxruntime-qnn"),
        (["--provider", "tpu"], "unknown execution provider 'tpu'"),
        (["--on", "pi5"], "pi5 has no address"),
        (["--provider", "cpu", "--layers", "*"], "--provider and --require-unit are for an artifact"),
    ],
)
def test_what_cannot_be_placed_is_told_in_a_line(linear: Path, arguments: list[str], words: str):
    said = edgepress("explain", linear, *arguments)
    assert said.code == 2
    assert words in said.complaint


def test_of_a_family_a_member_is_asked_for(make_artifact, tmp_path: Path):
    (tmp_path / "family.json").write_text("{}", encoding="utf-8")
    said = edgepress("explain", tmp_path)
    assert said.code == 2
    assert "is a family; name one of its members" in said.complaint
