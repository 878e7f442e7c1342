import zlib
from dataclasses import replace

import numpy as np
import pytest

from edgepress.devices import find_device
from edgepress.devices.measure import Row, measure, speed
from edgepress.runtime.artifact import read_artifact
from edgepress.runtime.errors import DeviceError, UnsupportedError, UsageError


@pytest.fixture(scope="module")
def artifacts(make_artifact):
    return make_artifact("base", width=512, depth=2), make_artifact("small")


@pytest.fixture(scope="module")
def host():
    return replace(find_device("host"), threads=1)


@pytest.fixture(scope="module")
def rows(artifacts, host) -> tuple[Row, ...]:
    return measure(artifacts, host, score=lambda model: {"norm": float(np.abs(model(x=ones())["y"]).max())}, runs=100)


def ones() -> np.ndarray:
    return np.ones((1, 64), np.float32)


def codes(row: Row) -> set[str]:
    return {doubt.code for doubt in row.doubts}


def test_a_row_is_about_the_file_that_ships(rows, artifacts):
    for row, artifact in zip(rows, artifacts, strict=True):
        assert row.name == artifact.name
        assert row.path == artifact.path
        assert row.bytes == artifact.model.stat().st_size
        assert row.sha256 == next(f.sha256 for f in artifact.files if f.role == "model")
        assert row.device == "host"
        assert row.kept


def test_the_download_is_what_zlib_makes_of_the_file(rows, artifacts, host):
    for row, artifact in zip(rows, artifacts, strict=True):
        assert row.compressed == len(zlib.compress(artifact.model.read_bytes(), 6))
    known = [replace(row, compressed=123) for row in rows]
    assert [row.compressed for row in measure(artifacts[:1], host, runs=1, known=known)] == [123]


def test_all_are_timed_in_one_run_and_each_alone(rows):
    base, small = rows
    assert base.timing.run == small.timing.run
    assert len(base.timing.samples) >= 100
    assert len(small.timing.samples) >= 100
    assert base.alone.load_ms > 0
    assert small.alone.first_run_ms > 0
    assert base.timing.threads == 1


def test_the_score_judges_the_open_file(rows, artifacts):
    from edgepress.runtime import load

    for row, artifact in zip(rows, artifacts, strict=True):
        assert row.score == {"norm": float(np.abs(load(artifact.path)(x=ones())["y"]).max())}


def test_the_golden_samples_are_replayed(rows):
    assert all(row.selftest.passed and row.selftest.cases == 1 for row in rows)


def test_the_same_file_is_as_fast_as_itself(rows):
    base = rows[0].timing
    assert speed(base, base).median == 1.0


def test_speed_is_the_ratio_of_the_rounds_medians(rows):
    a, b = (replace(row.timing, run="1") for row in rows)
    a = replace(a, rounds=((1.0, 2.0, 3.0), (2.0, 2.0), (1.0,)))
    b = replace(b, rounds=((4.0,), (2.0, 9.0, 10.0), (6.0,)))
    ratio = speed(a, b)
    assert ratio.median == 4.5  # of 2, 4.5 and 6
    assert ratio.low == pytest.approx((2 + 4.5) / 2)
    assert ratio.high == pytest.approx((4.5 + 6) / 2)


def test_timings_of_different_runs_are_never_compared(rows):
    a, b = (row.timing for row in rows)
    with pytest.raises(UsageError, match="base and small were timed in different runs, which are never merged"):
        speed(a, replace(b, run="another"))


def test_timings_of_different_shapes_are_never_compared(rows):
    a, b = (row.timing for row in rows)
    with pytest.raises(UsageError, match="different shapes"):
        speed(a, replace(b, shapes={"x": (9, 64)}))


def test_a_single_artifact_needs_one_process_only(artifacts, host):
    told: list[str] = []
    (row,) = measure(artifacts[1:], host, runs=3, on_progress=told.append)
    assert row.alone is not None
    assert row.timing is not None
    assert row.alone.load_ms == row.timing.load_ms
    assert row.score is None
    assert told == ["judging small", "timing small in a process of its own"]


def test_a_device_without_an_address_is_not_timed_and_says_so(artifacts):
    base, _ = measure(artifacts, find_device("pi5"), score=lambda model: {"one": 1.0})
    assert base.device == "pi5"
    assert base.timing is None
    assert base.alone is None
    assert base.score == {"one": 1.0}
    assert codes(base) == {"not-timed", "judged-here"}
    assert "nothing was timed on pi5: its profile has no address; give one" in base.doubts[0].text


def test_a_format_that_the_device_does_not_run_is_refused(artifacts, host):
    with pytest.raises(UnsupportedError, match="host does not run the format 'tape'; it runs: onnx"):
        measure([replace(artifacts[0], format="tape")], host)


def test_a_bare_file_is_measured_with_its_doubts(artifacts, host):
    (row,) = measure([read_artifact(artifacts[1].path / "model.onnx")], host, runs=3)
    assert row.selftest is None
    assert "invented-inputs" in codes(row)
    assert row.sha256 == next(f.sha256 for f in artifacts[1].files if f.role == "model")


def test_inputs_that_the_user_names_are_run_on_the_device(artifacts, host, tmp_path):
    file = tmp_path / "inputs.npz"
    np.savez(file, x=np.zeros((7, 64), np.float32))
    (row,) = measure(artifacts[1:], host, runs=3, inputs=file)
    assert row.timing is not None
    assert row.timing.batch == 7


def test_golden_outputs_that_do_not_come_back_are_a_doubt(artifacts):
    strict = replace(artifacts[0], tolerance=-1.0)
    import shutil

    from edgepress.runtime.artifact import write_manifest

    folder = artifacts[0].path.parent / "strict"
    shutil.copytree(artifacts[0].path, folder, dirs_exist_ok=True)
    write_manifest(replace(strict, path=folder))
    (row,) = measure([read_artifact(folder)], find_device("pi5"))
    assert row.selftest is not None
    assert not row.selftest.passed
    assert "self-test" in codes(row)


def test_what_goes_wrong_on_the_device_is_told_in_one_line(artifacts, host, tmp_path):
    file = tmp_path / "inputs.npz"
    np.savez(file, image=np.zeros((7, 64), np.float32))
    with pytest.raises(DeviceError, match=r"^there is no input 'image'; expected x float32\[batch, 64\]$"):
        measure(artifacts[1:], host, inputs=file)
