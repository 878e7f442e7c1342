"""What LiteRT's benchmark_model prints, taken apart; the tool itself runs in test_adb."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgepress.devices.litert_bench import bench, complaint, main, read_told
from edgepress.devices.measure import speed
from edgepress.runtime.errors import DeviceError, UnsupportedError
from edgepress.runtime.machine import Machine, this_machine
from edgepress.runtime.timing import from_json

from .tflite_check import Graph, build

# The lines of a phone's run, as benchmark_model.cc prints them.
SAID = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [5]
INFO: Graph: [/data/local/tmp/m.tflite]
INFO: Loaded model /data/local/tmp/m.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 8.45746
INFO: Initialized session in 207.799ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=11 first=90710 curr=42743 min=42209 max=90710 avg=48230.2 std=13845 p5=42209 median=42611 p95=90710

INFO: Running benchmark for at least 5 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=24 first=42468 curr=41938 min=41938 max=42840 avg=42394.8 std=188 p5=42133 median=42419 p95=42671

INFO: Inference timings in us: Init: 207799, First inference: 90710, Warmup (avg): 48230.2, Inference (avg): 42394.8
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=23.5938 overall=26.6797
INFO: Overall peak memory footprint (MB) via periodic monitoring: 31.5
INFO: Memory status at the end of exeution:
INFO: - VmRSS              : 30 MB
"""


@dataclass
class Here:
    """A place that answers with lines of a phone; it keeps what it was asked."""

    sent: dict[str, Path]
    machine: Machine = field(default_factory=this_machine)
    asked: list[list[str]] = field(default_factory=list)

    def tool(self, arguments, seconds: float) -> str:
        assert seconds > 0
        self.asked.append(list(arguments))
        return SAID


@pytest.fixture
def here(tmp_path) -> Here:
    files = (build(tmp_path / f"{name}.tflite", Graph((1, length))) for name, length in (("a", 3), ("b", 3), ("c", 4)))
    return Here({f"/there/{file.name}": file for file in files})


def test_the_averages_the_runs_and_the_memory_are_read():
    told = read_told(SAID)
    assert (told.init_ms, told.first_ms, told.average_ms) == (207.799, 90.71, pytest.approx(42.3948))
    assert (told.count, told.peak_memory) == (24, 31.5 * 2**20)


def test_large_figures_and_equal_runs_are_read_too():
    slow = re.sub(r"42394.8$", "1.23457e+06", SAID, flags=re.MULTILINE)
    assert read_told(slow).average_ms == pytest.approx(1234.57)
    same = re.sub(r"count=24 .*", "count=24 curr=42000(all same)", SAID)
    assert read_told(same).count == 24
    assert read_told(SAID.replace("Overall peak", "No peak")).peak_memory is None


@pytest.mark.parametrize("said", ["", "hello\n", SAID.replace("timings in us", "timings in ms")])
def test_an_answer_of_something_else_is_told(said):
    with pytest.raises(DeviceError, match=r"answer is not understood \(it ends with .*; expected the line 'Inference"):
        read_told(said)


def test_the_first_error_is_the_one_that_tells():
    said = "INFO: Loaded\nERROR: Node number 57 (BATCH_MATMUL) failed to prepare.\nERROR: Benchmarking failed.\n"
    assert complaint(said) == "Node number 57 (BATCH_MATMUL) failed to prepare."
    assert complaint("Segmentation fault\n\n") == "Segmentation fault"
    assert complaint("") == ""


def test_a_round_is_one_call_of_the_tool_and_no_percentiles_are_made_of_averages(here):
    (timing,) = bench(["/there/a.tflite"], here, runs=100, threads=4, timeout=60)
    assert len(timing.rounds) == 10
    assert timing.samples == pytest.approx([42.3948] * 10)
    assert timing.averaged
    doubts = {doubt.code: doubt.text for doubt in timing.doubts}
    assert doubts["averages"] == "averages of 24 runs each, as benchmark_model tells them; no percentiles"
    assert doubts["invented-inputs"] == "benchmark_model invents the inputs of the first graph (x[1, 3])"
    assert "few-runs" not in doubts
    watched, *counted = here.asked
    assert watched[:2] == ["--graph=/there/a.tflite", "--num_runs=1"]
    assert watched[-1] == "--report_peak_memory_footprint=true"
    assert counted == [["--graph=/there/a.tflite", "--num_runs=10", "--max_secs=3", "--num_threads=4"]] * 10


def test_alone_it_has_its_figures_and_what_the_tool_does_not_tell_is_not_there(here):
    (timing,) = bench(["/there/a.tflite"], here, runs=1, threads=None, timeout=60)
    assert (timing.load_ms, timing.first_run_ms, timing.cold_start_ms) == (207.799, 90.71, None)
    assert timing.peak_memory == 31.5 * 2**20
    assert timing.shapes == {"x": (1, 3)}
    assert not [part for part in here.asked[1] if part.startswith("--num_threads")]


def test_several_go_in_turn_and_may_be_compared(here):
    a, b = bench(["/there/a.tflite", "/there/b.tflite"], here, runs=20, threads=1, timeout=60)
    assert [asked[0] for asked in here.asked[:2]] == ["--graph=/there/a.tflite", "--graph=/there/b.tflite"]
    assert a.run == b.run
    assert a.peak_memory is a.load_ms is None
    assert speed(a, b).median == 1
    _, c = bench(["/there/a.tflite", "/there/c.tflite"], here, runs=20, threads=1, timeout=60)
    assert "shapes" in {doubt.code for doubt in c.doubts}


def test_the_arguments_of_the_runtimes_bench_are_taken_and_its_json_is_given(here):
    said = main(["/there/a.tflite", "--runs", "1", "--threads", "2", "--provider", "cpu"], here, 60)
    assert from_json(said)[0].threads == 2
    assert json.loads(said)[0]["name"] == "a"


def test_what_the_tool_cannot_do_is_refused(here):
    with pytest.raises(UnsupportedError, match=r"invents its inputs; leave --inputs out"):
        main(["/there/a.tflite", "--inputs", "x.npz"], here, 60)
    with pytest.raises(UnsupportedError, match=r"measured on its cpu, not on nnapi; leave it out"):
        main(["/there/a.tflite", "--provider", "nnapi"], here, 60)
    with pytest.raises(UnsupportedError, match=r"timed without --batch and --sustain; leave them out"):
        main(["/there/a.tflite", "--sustain", "3"], here, 60)
