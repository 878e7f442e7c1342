import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgepress.runtime.bench import _is_steady, bench, block, in_turn, main
from edgepress.runtime.errors import (
    ArtifactError,
    DataError,
    EngineError,
    PortError,
    SteppedDown,
    UnknownName,
    UsageError,
)
from edgepress.runtime.machine import this_machine
from edgepress.runtime.timing import Timing, from_json, to_json


def run_bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepress.runtime.bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def codes(timing: Timing) -> set[str]:
    return {doubt.code for doubt in timing.doubts}


def test_one_artifact_is_timed_with_the_figures_of_its_own_process(make_artifact):
    (timing,) = bench([make_artifact("one").path], runs=40, threads=1)
    assert timing.name == "one"
    assert len(timing.samples) >= 40
    assert all(ms > 0 for ms in timing.samples)
    assert timing.load_ms is not None
    assert timing.load_ms > 0
    assert timing.first_run_ms is not None
    assert timing.first_run_ms > 0
    assert timing.threads == 1
    assert timing.providers == ("CPUExecutionProvider",)
    assert dict(timing.shapes) == {"x": (2, 64)}
    assert timing.batch == 2
    if sys.platform == "linux":
        assert timing.peak_memory is not None
        assert timing.peak_memory > 10_000_000
        assert timing.cold_start_ms is not None


def test_it_tells_who_ran_each_node_where_the_engine_does(make_artifact, llama):
    (timing,) = bench([make_artifact("one").path], runs=1, threads=1)
    assert [(node.op, node.unit) for node in timing.placed] == [("MatMul", "cpu"), ("Relu", "cpu"), ("MatMul", "cpu")]
    (silent,) = bench([llama[0]], runs=1, threads=1, limit_s=0.1)
    assert silent.placed == ()


def test_percentiles_and_throughput_are_those_of_all_samples(make_artifact):
    (timing,) = bench([make_artifact("one").path], runs=40, threads=1)
    flat = [ms for block in timing.rounds for ms in block]
    assert timing.p50 == np.median(flat)
    assert timing.p90 == np.percentile(flat, 90)
    assert timing.p99 == np.percentile(flat, 99)
    assert timing.throughput == pytest.approx(2 / (timing.p50 / 1000))


def test_several_artifacts_run_in_turn_in_one_run(make_artifact):
    paths = [make_artifact("one").path, make_artifact("wide", width=256).path]
    first, second = bench(paths, runs=30, threads=1)
    assert first.run == second.run
    assert 10 <= len(first.rounds) == len(second.rounds) <= 20
    assert min(len(first.samples), len(second.samples)) >= 30
    assert (first.load_ms, first.first_run_ms, first.cold_start_ms, first.peak_memory) == (None,) * 4


def test_two_benches_are_two_runs(make_artifact):
    path = make_artifact("one").path
    assert bench([path], runs=1)[0].run != bench([path], runs=1)[0].run


def test_a_slow_model_gets_fewer_runs_in_the_time_it_has_and_a_doubt(make_artifact):
    path = make_artifact("slow", width=1024, depth=3).path
    (timing,) = bench([path], runs=10_000, threads=1, limit_s=0.3)
    assert 3 <= len(timing.rounds) < 20
    assert len(timing.samples) < 10_000


def test_fewer_than_a_hundred_runs_leave_p99_in_doubt(make_artifact):
    path = make_artifact("slow", width=1024, depth=3).path
    (timing,) = bench([path], runs=1, threads=1, limit_s=1e-3)
    (doubt,) = [doubt for doubt in timing.doubts if doubt.code == "few-runs"]
    assert doubt.text == f"p99 from {len(timing.samples)} runs; needs at least 100"
    many = bench([make_artifact("one").path], runs=100, threads=1)[0]
    assert "few-runs" not in codes(many)


def test_more_threads_than_cores_are_in_doubt(make_artifact):
    assert "threads" in codes(bench([make_artifact("one").path], runs=1, threads=this_machine().cores + 1)[0])


def test_a_bare_file_runs_invented_inputs_and_says_so(make_artifact):
    (timing,) = bench([make_artifact("one").path / "model.onnx"], runs=5)
    (doubt,) = [doubt for doubt in timing.doubts if doubt.code == "invented-inputs"]
    assert doubt.text == "invented inputs (x[1, 64]); name real ones with --inputs FILE.npz"
    assert timing.batch == 1


def test_an_artifact_with_golden_samples_runs_the_first_of_them(make_artifact):
    (timing,) = bench([make_artifact("one", batch=3).path], runs=1)
    assert dict(timing.shapes) == {"x": (3, 64)}
    assert "invented-inputs" not in codes(timing)


def test_inputs_of_different_shapes_are_in_doubt(make_artifact):
    timings = bench([make_artifact("one", batch=2).path, make_artifact("one", batch=3).path], runs=1)
    assert all("shapes" in codes(timing) for timing in timings)


def test_the_inputs_that_the_user_names_are_run(make_artifact, tmp_path):
    file = tmp_path / "inputs.npz"
    np.savez(file, x=np.zeros((5, 64), np.float32))
    (timing,) = bench([make_artifact("one").path], runs=1, inputs=file)
    assert dict(timing.shapes) == {"x": (5, 64)}
    assert timing.batch == 5


def test_inputs_that_do_not_fit_the_model_are_refused(make_artifact, tmp_path):
    file = tmp_path / "inputs.npz"
    np.savez(file, image=np.zeros((5, 64), np.float32))
    with pytest.raises(PortError, match="no input 'image'; expected x float32"):
        bench([make_artifact("one").path], inputs=file)


def test_a_pickle_is_never_loaded(make_artifact, tmp_path):
    file = tmp_path / "inputs.npz"
    np.savez(file, x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        bench([make_artifact("one").path], inputs=file)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_a_damaged_inputs_file_is_refused(make_artifact, tmp_path, content):
    file = tmp_path / "inputs.npz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        bench([make_artifact("one").path], inputs=file)


def test_a_single_array_is_no_set_of_inputs(make_artifact, tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        bench([make_artifact("one").path], inputs=file)


@pytest.mark.parametrize("settings", [{"runs": 0}, {"threads": 0}])
def test_settings_that_cannot_be_right_are_refused(make_artifact, settings):
    with pytest.raises(UsageError, match="expected at least 1"):
        bench([make_artifact("one").path], **settings)
    with pytest.raises(UsageError, match="0 artifacts"):
        bench([])


def test_an_unknown_provider_is_refused_by_name(make_artifact):
    with pytest.raises(UnknownName, match="unknown execution provider 'tpu'"):
        bench([make_artifact("one").path], providers=("tpu",))


def test_ports_of_every_kind_get_an_input_that_runs(tmp_path):
    """An encoder's ids, mask and types: 0 is an index that every table has, and a mask must let something through."""
    timing = bench([write_encoder(tmp_path / "encoder.onnx", rows=1)], runs=1)[0]
    assert dict(timing.shapes) == {"input_ids": (1, 1), "attention_mask": (1, 1)}


def test_a_model_that_cannot_run_invented_inputs_asks_for_real_ones(tmp_path):
    with pytest.raises(EngineError, match=r"with invented inputs .*--inputs FILE\.npz"):
        bench([write_encoder(tmp_path / "encoder.onnx", rows=1, first_index=7)], runs=1)


def test_json_gives_the_same_timings_back(make_artifact):
    timings = bench([make_artifact("one").path, make_artifact("wide", width=256).path], runs=5, threads=1)
    assert from_json(to_json(timings)) == timings


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "x"}]', "Traceback"])
def test_text_that_is_no_timing_is_refused(text):
    with pytest.raises(DataError, match=r"expected the JSON of edgepress\.runtime\.bench"):
        from_json(text)


def test_the_program_prints_json_and_nothing_else(make_artifact):
    done = run_bench(make_artifact("one").path, "--runs", 3, "--threads", 1)
    assert done.returncode == 0
    assert done.stderr == ""
    (timing,) = from_json(done.stdout)
    assert timing.threads == 1
    assert json.loads(done.stdout)[0]["rounds"]


def test_the_program_says_what_is_wrong_in_one_line_and_ends_with_2(tmp_path):
    done = run_bench(tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"{tmp_path / 'nowhere'} does not exist; check the path"]


def test_the_cold_start_counts_from_the_start_of_the_process(make_artifact):
    (timing,) = from_json(run_bench(make_artifact("one").path, "--runs", 1).stdout)
    if timing.cold_start_ms is None:
        pytest.skip("the system does not tell")
    assert timing.load_ms is not None
    assert timing.first_run_ms is not None
    assert timing.cold_start_ms > timing.load_ms + timing.first_run_ms - 10  # the kernel counts in 10 ms


def test_a_changed_file_is_not_timed(make_artifact, tmp_path):
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(make_artifact("one").path, folder)
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        bench([folder])


def test_main_returns_the_exit_code(make_artifact, capsys):
    assert main([str(make_artifact("one").path), "--runs", "1", "--provider", "cpu"]) == 0
    assert from_json(capsys.readouterr().out)


def write_encoder(path: Path, *, rows: int, first_index: int = 0) -> Path:
    """y = table[ids + first_index] * mask, with int64 ids and mask [batch, sequence]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.ones((rows, 4), np.float32), "table")
    offset = numpy_helper.from_array(np.array(first_index, np.int64), "offset")
    nodes = [
        helper.make_node("Add", ["input_ids", "offset"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask"], ["count"], keepdims=0),
        helper.make_node("Div", ["rows", "count"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "encoder", ports, [output], [table, offset])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def test_blocks_alternate_so_that_a_drift_meets_all_alike():
    order: list[str] = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    blocks = in_turn([partial(block, call) for call in calls], runs=3, limit_s=10)
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["a", "b"] * 3
    assert [len(rounds) for rounds in blocks] == [3, 3]


def test_rounds_end_where_the_ratio_is_known_and_never_before_each_has_its_runs():
    steady, shaken = [(1.0, 1.0)] * 10, [(1.0, 1.0), (2.0, 2.0)] * 5
    assert _is_steady([steady, steady])
    assert _is_steady([shaken, [(2 * a, 2 * b) for a, b in shaken]])  # both were disturbed alike
    assert _is_steady([shaken])  # nothing to compare with
    assert not _is_steady([shaken, steady])
    assert not _is_steady([shaken, steady, steady])  # the one before the last is not all that counts

    # the quartiles of the log ratios lie 0.12 apart: 0.038 over √10; and 0.14: 0.044
    assert _is_steady([[(math.exp(0.12 * (i % 2)),) for i in range(10)], steady])
    assert not _is_steady([[(math.exp(0.14 * (i % 2)),) for i in range(10)], steady])

    blocks = in_turn([partial(block, lambda: None)] * 2, runs=100, limit_s=10)
    assert all(sum(map(len, rounds)) >= 100 for rounds in blocks)


def test_a_unit_that_was_stepped_down_from_is_a_doubt(make_artifact):
    with pytest.warns(SteppedDown, match="does not run on acl, and goes on with cpu"):
        (timing,) = bench([make_artifact("one").path], runs=1, threads=1, providers=("acl", "cpu"))
    assert [doubt.text for doubt in timing.doubts if doubt.code == "fallback"] == [
        "acl did not run it; the model ran on cpu"
    ]


def test_the_last_artifact_is_run_without_a_pause(make_artifact):
    first, last = bench([make_artifact("one").path, make_artifact("wide", width=256).path], runs=3, sustain=0.2)
    assert first.sustained is None
    assert last.sustained is not None
    assert last.sustained.runs > 1
    done = run_bench(make_artifact("one").path, "--runs", 3, "--sustain", 0.1)
    assert from_json(done.stdout)[0].sustained is not None


def test_a_batch_repeats_the_samples_of_the_inputs(make_artifact):
    (timing,) = bench([make_artifact("one", batch=2).path], runs=3, batch=5)
    assert dict(timing.shapes) == {"x": (5, 64)}
    assert timing.batch == 5
    (again,) = from_json(run_bench(make_artifact("one").path, "--runs", 3, "--batch", 4, "--limit", 1).stdout)
    assert again.batch == 4


def test_a_batch_needs_a_free_first_axis_and_a_sample(make_artifact, tmp_path):
    import onnx

    fixed = onnx.load(make_artifact("one").path / "model.onnx")
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, tmp_path / "fixed.onnx")
    with pytest.raises(UsageError, match="a batch of 0; expected 1 or more, and an input with a free first axis"):
        bench([make_artifact("one").path], batch=0)
    with pytest.raises(UsageError, match=r"a batch of 4; expected 1 or more, .* not x float32\[1, 64\]"):
        bench([tmp_path / "fixed.onnx"], batch=4)
