"""The browser as a device: the row, builds in turn, the inputs that are timed, and what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.devices import find_device
from edgepress.devices.browser import BrowserEngine, Opened
from edgepress.devices.browser_bench import _doubts, bench, descendants
from edgepress.devices.links import connect
from edgepress.devices.measure import Row, measure, speed
from edgepress.runtime.artifact import Artifact, Port
from edgepress.runtime.errors import DeviceError, UnsupportedError, UsageError
from edgepress.runtime.timing import from_json

from .chromium import digits_site, needs_chromium

TOLD = {"download": 1.0, "start": 1.0, "firstRun": 1.0}


@pytest.fixture(scope="module")
def site(digits_sample, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return digits_site(digits_sample, tmp_path_factory.mktemp("sites") / "digits")


@pytest.fixture(scope="module")
def row(site: Artifact) -> Row:
    def score(model):
        return {"norm": float(np.abs(model(image=np.ones((1, 1, 32, 32), np.float32))["logits"]).max())}

    before = set(descendants(os.getpid()))
    (found,) = measure([site], find_device("browser"), score=score)
    assert set(descendants(os.getpid())) <= before, "processes are left"
    return found


@needs_chromium
def test_a_row_of_the_browser_has_what_any_row_has(row: Row, site: Artifact):
    assert (row.device, row.format, row.bytes) == ("browser", "web", site.bytes)
    assert row.timing is not None
    assert row.alone is not None
    assert len(row.timing.samples) >= 100
    assert 0 < row.timing.p50 <= row.timing.p99
    assert row.alone.load_ms is not None
    assert row.alone.cold_start_ms is not None
    assert row.alone.first_run_ms is not None
    assert 0 < row.alone.load_ms < row.alone.cold_start_ms
    assert row.alone.first_run_ms > 0
    assert row.timing.machine.system.startswith("Chromium ")
    assert row.timing.shapes == {"image": (1, 1, 32, 32)}
    assert row.timing.batch == 1


@needs_chromium
def test_threads_and_backend_are_those_that_ran(row: Row):
    assert row.timing is not None
    assert row.timing.providers == (("wasm-threads",) if row.timing.threads and row.timing.threads > 1 else ("wasm",))


@needs_chromium
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell")
def test_the_memory_is_that_of_the_tab(row: Row, site: Artifact):
    assert row.alone is not None
    assert row.alone.peak_memory is not None
    engine = sum(file.bytes for file in site.files)
    assert engine < row.alone.peak_memory < 2**30


@needs_chromium
def test_score_and_self_test_are_the_browsers_own(row: Row):
    assert row.score is not None
    assert row.score["norm"] > 0
    assert row.selftest is not None
    assert row.selftest.passed
    codes = {doubt.code for doubt in row.doubts}
    assert not codes & {"judged-here", "fallback", "not-timed", "clock", "refused", "few-runs"}


@needs_chromium
def test_builds_are_timed_in_turn_in_one_page_with_the_inputs_that_were_named(site: Artifact, tmp_path: Path):
    copy = Path(shutil.copytree(site.path, tmp_path / "copy"))
    np.savez(tmp_path / "inputs.npz", image=np.zeros((3, 1, 32, 32), np.float32))
    settings = ["--runs", "20", "--threads", "1", "--provider", "wasm", "--inputs", str(tmp_path / "inputs.npz")]
    arguments = ["-m", "edgepress.runtime.bench", str(site.path), str(copy), *settings]
    first, second = from_json(connect("browser").run(arguments, 300))
    assert (first.name, second.name) == ("digits", "copy")
    assert first.run == second.run
    assert first.load_ms is None
    assert first.peak_memory is None
    assert (first.threads, first.providers, first.batch) == (1, ("wasm",), 3)
    assert len(first.rounds) == len(second.rounds) >= 10
    assert speed(first, second).median > 0


@needs_chromium
def test_inputs_that_do_not_fit_are_told_in_one_line(site: Artifact, tmp_path: Path):
    np.savez(tmp_path / "inputs.npz", picture=np.zeros((3, 1, 32, 32), np.float32))
    with pytest.raises(DeviceError, match=r"^there is no input 'picture'; expected image float32\[batch, 1, 32, 32\]$"):
        measure([site], find_device("browser"), inputs=tmp_path / "inputs.npz")


def test_other_formats_and_other_programs_are_refused(make_artifact):
    with pytest.raises(UnsupportedError, match="browser does not run the format 'onnx'; it runs: web"):
        measure([make_artifact("base")], find_device("browser"))
    with pytest.raises(
        DeviceError, match=r"a browser does not run -m http\.server; it runs: edgepress\.runtime\.bench"
    ):
        connect("browser").run(["-m", "http.server"], 10)


def test_nothing_to_time_is_a_mistake():
    from edgepress.devices.browser_bench import bench

    with pytest.raises(UsageError, match="0 artifacts, 100 runs"):
        bench([])


def test_a_backend_that_was_passed_over_and_a_coarse_clock_are_doubts():
    refused = [
        {"backend": "wasm-threads", "why": "wrong", "message": "the golden samples come out 2.0e-1 apart"},
        {"backend": "webgpu", "why": "absent", "message": "this browser has no WebGPU"},
    ]
    opened = Opened(0, "wasm", 1, refused, TOLD, 1.0, 0.0, isolated=False)
    engine = BrowserEngine(None, opened, (Port("x", "float32", ()),), (), {})  # pyright: ignore[reportArgumentType]
    first, second = _doubts(engine)
    assert first.text == "wasm-threads was passed over: the golden samples come out 2.0e-1 apart"
    assert second.code == "clock"
    assert not list(_doubts(replace(engine, opened=replace(opened, refused=[], isolated=True))))


@pytest.mark.parametrize("asked", [{"batch": 2}, {"sustain": 1.0}])
def test_what_a_browser_does_not_do_is_refused_by_name(asked):
    with pytest.raises(UnsupportedError, match="a browser is timed without --batch and --sustain; leave them out"):
        bench(["site"], **asked)
