import json
from dataclasses import replace

import pytest

from edgepress.export.kernels import write_kernels
from edgepress.runtime.errors import ArtifactError, DataError, EngineError, UsageError
from edgepress.runtime.machine import this_machine
from edgepress.runtime.probe import KERNELS, Probe, from_json, main, probe, to_json


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    write_kernels(folder, "uint8")
    return folder


@pytest.fixture(scope="module")
def found(kernels) -> Probe:
    return probe(kernels, threads=1, seconds=1.0)


def few(kernels, folder, *kinds: str):
    """A folder with the kernels of some kinds only."""
    listed = [raw for raw in json.loads((kernels / KERNELS).read_text()) if raw["kind"] in kinds]
    (folder / KERNELS).write_text(json.dumps(listed))
    for raw in listed:
        (folder / raw["file"]).write_bytes((kernels / raw["file"]).read_bytes())
    return folder


def test_a_probe_tells_each_kernel_the_call_the_node_and_the_memory(found):
    assert found.machine.cpu == this_machine().cpu
    assert found.threads == 1
    assert found.missing == {}
    assert {point.kind for point in found.points} == {
        "matmul", "conv", "depthwise", "elementwise", "softmax", "gelu", "norm",
    }  # fmt: skip
    assert all(point.ms >= 0 for point in found.points)
    assert found.call_ms > 0
    assert found.overhead_ms >= 0
    assert min(found.bandwidth.values()) > 0
    assert sorted(found.bandwidth)[-1] == 2**27


def test_json_gives_the_same_probe_back(found):
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"points": 3}', "null"])
def test_text_that_is_no_probe_is_refused(text):
    with pytest.raises(DataError, match=r"this is no probe .*; make one with: edgepress devices probe --out FILE"):
        from_json(text)


def test_a_kernel_that_the_engine_refuses_is_missing_with_the_reason(kernels, tmp_path):
    folder = few(kernels, tmp_path, "call", "overhead", "softmax")
    broken = sorted(folder.glob("softmax-*"))[0]
    broken.write_bytes(b"no model")
    found = probe(folder, threads=1, seconds=0.1)
    assert list(found.missing) == [broken.name]
    assert "ONNX Runtime cannot open" in found.missing[broken.name]
    assert {point.kind for point in found.points} == {"softmax"}


def test_what_cannot_be_probed_is_refused(kernels, tmp_path):
    with pytest.raises(UsageError, match="a probe of 0 s; expected more than 0"):
        probe(kernels, seconds=0)
    with pytest.raises(ArtifactError, match=r"kernels\.json cannot be read .*; write the kernels again"):
        probe(tmp_path)
    with pytest.raises(EngineError, match="do not run here: none is there"):
        probe(few(kernels, tmp_path, "softmax"), seconds=0.1)


def test_the_program_prints_json_and_ends_with_2_where_it_cannot(kernels, tmp_path, capsys):
    folder = few(kernels, tmp_path, "call", "overhead", "gelu")
    assert main([str(folder), "--threads", "1", "--seconds", "0.1"]) == 0
    seen = from_json(capsys.readouterr().out)
    assert replace(seen, points=()).threads == 1
    assert main([str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
