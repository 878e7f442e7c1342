from dataclasses import replace

import pytest

from edgepress.devices.provenance import models, setting

from .reports import of_passes


@pytest.fixture
def report(make_row):
    return of_passes(make_row)


def test_the_setting_names_device_machine_run_and_tools(report):
    facts = dict(setting(report))
    assert facts["device"].startswith("board: ")
    assert facts["address"] == "local"
    assert facts["machine"] == "a processor, x86_64, 2 cores, 4,096 MB of memory"
    assert facts["system"] == "Linux 6, Python 3.11.7"
    assert facts["state"] == "load 0.1"
    assert facts["threads"] == "1"
    assert facts["run"] == "1"
    assert facts["tools"] == "edgepress 0.1.0, onnx 1.23.2"


def test_what_differs_between_rows_is_told_each_time(report):
    first, second, *rest = report.rows
    moved = replace(second, timing=replace(second.timing, run="2", threads=None))
    facts = list(setting(replace(report, rows=(first, moved, *rest))))
    assert [value for name, value in facts if name == "run"] == ["1", "2"]
    assert [value for name, value in facts if name == "threads"] == ["1", "the engine's choice"]


def test_a_device_that_was_not_reached_says_so(report):
    far = replace(report, device=replace(report.device, link=""), rows=(replace(report.rows[0], timing=None),))
    facts = dict(setting(far))
    assert facts["address"] == "none: nothing was timed there"
    assert "machine" not in facts


def test_a_model_has_its_file_its_hash_its_samples_and_its_history(report):
    row, facts = list(models(report))[-1]
    told = dict(facts)
    assert row.name == "digits-tiny"
    assert told["file"] == "out/digits-tiny"
    assert told["sha256"] == "0" * 64
    assert told["format"] == "onnx, 60,000 bytes"
    assert told["as a download"] == "45 kB, deflated"
    assert told["samples"] == "100 runs in 20 rounds, batch 2"
    assert told["inputs"] == "x[2, 64]"
    assert told["providers"] == "CPUExecutionProvider"
    assert told["disturbed by"] == "3 involuntary switches in 1.0 s"
    assert told["golden samples"] == "passed: 2, difference 1.0e-07, tolerance 1.0e-05"
    assert told["step 1"] == "structured(share=0.5): half the channels are gone"
    assert told["step 2"] == "static_int8(bits=8)"


def test_what_was_not_measured_is_not_told(report, make_row):
    bare = replace(make_row("bare", 1000, ms=None), selftest=None)
    ((_, facts),) = models(replace(report, rows=(bare,)))
    assert [name for name, _ in facts] == ["file", "sha256", "format"]
