"""A program of the runtime says one thing on stdout, or why not on stderr."""

import pytest

from edgepress.runtime.errors import DataError
from edgepress.runtime.program import answer


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
