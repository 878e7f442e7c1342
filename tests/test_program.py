"""A program of the runtime says one thing on stdout, or why not on stderr."""

from pathlib import Path

import pytest

from edgepress.devices.device import find_device
from edgepress.devices.links import Local
from edgepress.devices.measure import measure
from edgepress.runtime import placement, selftest, timing
from edgepress.runtime.artifact import read_artifact
from edgepress.runtime.errors import DataError
from edgepress.runtime.program import answer, answered


def test_what_is_said_is_printed_and_the_exit_code_is_0(capsys: pytest.CaptureFixture[str]):
    assert answer(lambda: "[1]") == 0
    assert capsys.readouterr() == ("[1]\n", "")


def test_an_error_of_ours_is_one_line_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]):
    def fail() -> str:
        raise DataError("there is no x; check the path")

    assert answer(fail) == 2
    assert capsys.readouterr() == ("", "there is no x; check the path\n")


def test_any_other_error_is_a_fault_and_stays_one():
    with pytest.raises(ZeroDivisionError):
        answer(lambda: str(1 // 0))


@pytest.fixture
def noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that starts prints what a vendor's library may, before it does anything else."""
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text('print("Starting stage: Graph Preparation\\n")', "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "noise"))


@pytest.mark.parametrize(
    ("program", "read"),
    [("bench", timing.from_json), ("selftest", selftest.from_json), ("place", placement.from_json)],
)
@pytest.mark.usefixtures("noisy")
def test_an_answer_is_read_past_what_a_library_printed_before(program: str, read, artifact: Path):
    printed = Local().run(["-m", f"edgepress.runtime.{program}", str(artifact)], 60)
    assert printed.startswith("Starting stage")
    with pytest.raises(DataError):
        read(printed)
    assert read(answered(printed))


@pytest.mark.usefixtures("noisy")
def test_a_measurement_takes_no_harm_from_it(artifact: Path):
    (row,) = measure([read_artifact(artifact)], find_device("host"), runs=1)
    assert row.timing is not None
