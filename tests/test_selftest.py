import json
import math
import shutil
from dataclasses import replace

import pytest

from edgepress.runtime.artifact import write_manifest
from edgepress.runtime.errors import DataError
from edgepress.runtime.golden import SelfTest
from edgepress.runtime.selftest import from_json, main, selftests


def test_golden_samples_are_replayed_where_there_are_some(make_artifact):
    first, none = selftests([str(make_artifact("base").path), str(make_artifact("bare", golden=False).path)])
    assert first is not None
    assert first.passed
    assert first.cases == 1
    assert none is None


def test_what_is_printed_is_read_again(make_artifact, capsys):
    paths = [str(make_artifact("base").path), str(make_artifact("bare", golden=False).path)]
    assert main(paths) == 0
    assert from_json(capsys.readouterr().out) == selftests(paths)


def test_a_difference_that_is_no_number_survives():
    (read,) = from_json('[{"cases": 1, "difference": "nan", "tolerance": 1e-5}]')
    assert read is not None
    assert math.isnan(read.difference)
    assert not read.passed
    assert from_json('[{"cases": 1, "difference": "inf", "tolerance": 1e-5}]') == (SelfTest(1, math.inf, 1e-5),)


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "gone")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_a_strict_tolerance_fails(make_artifact, tmp_path):
    base = make_artifact("base")
    folder = tmp_path / "strict"
    shutil.copytree(base.path, folder)
    write_manifest(replace(base, path=folder, tolerance=-1.0))
    (one,) = selftests([str(folder)])
    assert one is not None
    assert not one.passed


@pytest.mark.parametrize("text", ["", "hello", "{}x", '[{"cases": 1}]', json.dumps([1])])
def test_something_else_is_refused(text):
    with pytest.raises(DataError, match=r"expected the JSON of edgepress\.runtime\.selftest, got"):
        from_json(text)
