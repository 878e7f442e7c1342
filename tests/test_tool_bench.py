"""Artifacts timed by tools that answer with the lines of a phone; the tools themselves run in test_adb."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgepress.devices.measure import speed
from edgepress.devices.tool_bench import Tool, bench, main
from edgepress.devices.tools import TOOLS
from edgepress.runtime.errors import UnknownName, UnsupportedError
from edgepress.runtime.machine import Machine, this_machine
from edgepress.runtime.timing import from_json

from .test_litert_bench import SAID
from .test_ort_bench import SAID as SAID_BY_ORT
from .tflite_check import Graph, build


@dataclass
class Here:
    """A place that answers with lines of a phone; it keeps what it was asked."""

    sent: dict[str, Path]
    said: dict[str, str] = field(default_factory=lambda: {"tflite": SAID})
    machine: Machine = field(default_factory=this_machine)
    asked: list[list[str]] = field(default_factory=list)

    @property
    def tools(self) -> Mapping[str, Tool]:
        return {form: TOOLS[form] for form in self.said}

    def call(self, form: str, arguments, seconds: float) -> str:
        assert seconds > 0
        self.asked.append(list(arguments))
        return self.said[form]


@pytest.fixture
def here(tmp_path) -> Here:
    files = (build(tmp_path / f"{name}.tflite", Graph((1, length))) for name, length in (("a", 3), ("b", 3), ("c", 4)))
    return Here({f"/there/{file.name}": file for file in files})


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


def test_a_tool_that_tells_each_run_gives_samples_of_which_those_that_warm_up_are_dropped(artifact):
    """A run takes 20 ms: 25 of them, half a second, go before the 2 of a round."""
    here = Here({"/there/linear-fp32": artifact}, {"onnx": SAID_BY_ORT})
    (timing,) = bench(["/there/linear-fp32"], here, runs=20, threads=None, timeout=60)
    assert timing.rounds == ((pytest.approx(20.4), pytest.approx(20.0)),) * 10
    assert not timing.averaged
    assert [asked[asked.index("-r") + 1] for asked in here.asked] == ["1", *["27"] * 10]
    assert timing.doubts[0].code == "invented-inputs"
    assert "few-runs" in {doubt.code for doubt in timing.doubts}


def test_a_fast_model_runs_more_often_and_a_slow_one_less_than_is_asked(artifact):
    for seconds, runs in (("1e-05", "50100"), ("0.0009", "578"), ("2.5", "1")):
        here = Here({"/there/x": artifact}, {"onnx": SAID_BY_ORT.replace("0.02,", f"{seconds},")})
        bench(["/there/x"], here, runs=20, threads=None, timeout=60)
        assert here.asked[-1][here.asked[-1].index("-r") + 1] == runs


def test_two_formats_are_timed_in_turn_each_by_its_own_tool(here, artifact):
    place = Here(here.sent | {"/there/linear-fp32": artifact}, {"tflite": SAID, "onnx": SAID_BY_ORT})
    one, other = bench(["/there/a.tflite", "/there/linear-fp32"], place, runs=20, threads=1, timeout=60)
    assert one.run == other.run
    assert (one.averaged, other.averaged) == (True, False)
    assert [asked[0] for asked in place.asked] == ["--graph=/there/a.tflite", "-I"] * 11
    assert one.shapes == other.shapes == {"x": (1, 3)}
    assert speed(other, one).median == pytest.approx(42.3948 / 20.2)


def test_a_format_without_a_tool_there_is_refused_by_name(artifact):
    with pytest.raises(UnknownName, match=r"unknown format 'onnx'; known: tflite"):
        bench(["/there/x"], Here({"/there/x": artifact}), runs=1, threads=None, timeout=60)


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
