import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgepress.devices.compare import Comparison, compare, mann_whitney, read_report, render, to_json
from edgepress.devices.report import Report, save
from edgepress.runtime.errors import DataError, UsageError
from edgepress.runtime.machine import Doubt

from .commands import edgepress
from .reports import of_passes

STEADY = [1.0, 1.01, 1.02, 0.99, 0.98] * 4
samples = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=12)


@pytest.fixture
def report(make_row) -> Report:
    return of_passes(make_row)


@pytest.fixture
def one(report):
    """`one(row)`: a report of that row alone."""
    return lambda row: replace(report, rows=(row,), title=row.name)


def verdict(found: Comparison, figure: str) -> str:
    (move,) = [move for move in found.moves if move.figure == figure]
    return move.verdict


@given(samples, samples)
def test_the_u_test_is_that_of_scipy(a, b):
    from scipy.stats import mannwhitneyu

    if len({*a, *b}) == 1:
        assert mann_whitney(a, b) == 1.0
        return
    theirs = mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue
    assert mann_whitney(a, b) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_a_report_beside_itself_has_not_moved(report):
    found = compare(report, report)
    assert {move.verdict for move in found.moves} == {"same"}
    assert not found.worse
    assert (found.gone, found.new) == ((), ())


def test_bytes_and_scores_move_by_any_change(one, make_row):
    before = make_row("net", 1000, score={"top1": 0.99, "kl": 0.10})
    after = make_row("net", 1001, score={"top1": 0.9899, "kl": 0.09})
    found = compare(one(before), one(after))
    assert verdict(found, "size") == "worse"
    assert verdict(found, "top1") == "worse"
    assert verdict(found, "kl") == "better", "of a divergence less is better"
    assert [move.words for move in found.moves if move.figure in ("size", "top1")] == [
        "1 kB → 1 kB, 1.00x, +1 B",
        "0.9900 → 0.9899, -0.01 points",
    ]
    back = compare(one(after), one(before))
    assert [verdict(back, figure) for figure in ("size", "top1", "kl")] == ["better", "better", "worse"]


def test_a_score_that_is_no_number_any_more_is_worse(one, make_row):
    good, bad = make_row("net", 1000, score={"top1": 0.99}), make_row("net", 1000, score={"top1": math.nan})
    assert verdict(compare(one(good), one(bad)), "top1") == "worse"
    assert verdict(compare(one(bad), one(good)), "top1") == "better"
    assert verdict(compare(one(bad), one(bad)), "top1") == "same"


def test_a_score_that_is_no_longer_judged_is_told(one, make_row):
    found = compare(one(make_row("net", 1000, score={"top1": 0.9})), one(make_row("net", 1000)))
    assert verdict(found, "top1") == "unknown"


@pytest.mark.parametrize(
    ("factor", "said"), [(1.0, "same"), (1.03, "same"), (1.2, "worse"), (0.8, "better"), (3.0, "worse")]
)
def test_a_latency_moves_where_its_rounds_differ_and_lie_further_apart_than_two_runs_do(one, make_row, factor, said):
    before = make_row("net", 1000, ms=STEADY)
    after = make_row("net", 1000, ms=[factor * ms for ms in STEADY], run="2")
    assert verdict(compare(one(before), one(after)), "latency") == said


def test_rounds_that_lie_among_each_other_are_noise_whatever_their_medians(one, make_row):
    before = make_row("net", 1000, ms=[1.0, 1.0, 1.0, 2.0, 2.0] * 2)
    after = make_row("net", 1000, ms=[1.0, 1.0, 2.0, 2.0, 2.0] * 2, run="2")
    found = compare(one(before), one(after))
    assert verdict(found, "latency") == "same"
    assert next(move.p for move in found.moves if move.figure == "latency") > 0.01


def test_two_rounds_prove_nothing(one, make_row):
    assert (
        verdict(compare(one(make_row("n", 1, ms=[1.0, 1.0])), one(make_row("n", 1, ms=[9.0, 9.0]))), "latency")
        == "same"
    )


def test_what_lies_within_the_spread_of_the_runs_is_noise(one, make_row):
    wide = [1.0] * 17 + [1.3] * 3
    before = make_row("net", 1000, ms=wide)
    after = make_row("net", 1000, ms=[1.2 * ms for ms in wide], run="2")
    assert verdict(compare(one(before), one(after)), "latency") == "same"


@pytest.mark.parametrize(("code", "said"), [("other-load", "same"), ("steal", "same"), ("governor", "worse")])
def test_beside_other_programs_only_twice_the_time_is_news(one, make_row, code, said):
    before, after = make_row("net", 1000, ms=STEADY), make_row("net", 1000, ms=[1.6 * ms for ms in STEADY], run="2")
    disturbed = replace(after, timing=replace(after.timing, doubts=(Doubt(code, "something is wrong"),)))
    assert verdict(compare(one(before), one(disturbed)), "latency") == said
    slow = make_row("net", 1000, ms=[2.5 * ms for ms in STEADY], run="2")
    slow = replace(slow, timing=replace(slow.timing, doubts=disturbed.timing.doubts if disturbed.timing else ()))
    assert verdict(compare(one(before), one(slow)), "latency") == "worse"


def test_latencies_and_memory_of_different_machines_are_not_compared_but_bytes_are(one, make_row):
    before, after = make_row("net", 1000, ms=1.0), make_row("net", 2000, ms=9.0, memory=10**9, run="2")
    assert after.timing is not None
    other = replace(after.timing.machine, cpu="another processor")
    found = compare(one(before), one(replace(after, timing=replace(after.timing, machine=other))))
    assert verdict(found, "latency") == "unknown"
    assert "not compared: different machines" in [move.words for move in found.moves]
    assert [move.figure for move in found.moves] == ["size", "latency"]
    assert verdict(found, "size") == "worse"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"threads": 4}, "different numbers of threads"),
        ({"providers": ("CUDAExecutionProvider",)}, "different providers"),
        ({"shapes": {"x": (8, 64)}}, "inputs of different shapes"),
    ],
)
def test_latencies_of_different_settings_are_not_compared(one, make_row, change, why):
    before, after = make_row("net", 1000), make_row("net", 1000, ms=9.0, run="2")
    assert after.timing is not None
    found = compare(one(before), one(replace(after, timing=replace(after.timing, **change))))
    assert [move.words for move in found.moves if move.figure == "latency"] == [f"not compared: {why}"]
    assert not found.worse


@pytest.mark.parametrize(("before", "after", "why"), [(1.0, None, "after"), (None, 1.0, "before")])
def test_what_was_not_measured_is_told(one, make_row, before, after, why):
    found = compare(one(make_row("net", 1000, ms=before)), one(make_row("net", 1000, ms=after)))
    assert [move.words for move in found.moves if move.figure == "latency"] == [f"not measured {why}"]


def test_memory_moves_beyond_what_the_same_file_shows(one, make_row):
    before = make_row("net", 1000, memory=60_000_000)
    for memory, said in ((65_000_000, "same"), (70_000_000, "worse"), (50_000_000, "better")):
        assert verdict(compare(one(before), one(make_row("net", 1000, memory=memory))), "memory") == said


def test_models_are_matched_by_name_and_format(report, one, make_row):
    onnx, tflite = make_row("net", 1000), replace(make_row("net", 900), format="tflite")
    found = compare(replace(report, rows=(onnx, tflite)), replace(report, rows=(tflite, make_row("more", 1))))
    assert {move.model for move in found.moves} == {"net (tflite)"}
    assert found.gone == ("net (onnx)",)
    assert found.new == ("more (onnx)",)


def test_reports_of_other_models_are_refused(one, make_row):
    with pytest.raises(UsageError, match="the reports have no model in common: a and b; compare"):
        compare(one(make_row("a", 1)), one(make_row("b", 1)))


def test_two_models_of_one_name_are_refused(report, make_row):
    twice = replace(report, title="twice", rows=(make_row("net", 1), make_row("net", 2)))
    with pytest.raises(
        UsageError, match="twice: two models are named net; compare reports whose models differ in name"
    ):
        compare(twice, report)


def test_the_table_fits_the_terminal_and_says_what_is_worse(report, make_row):
    slow = make_row("digits-tiny", 60_001, ms=0.5, run="2", score={"top1": 0.9907, "top5": 0.9999})
    found = compare(report, replace(report, rows=(*report.rows[:-1], slow)))
    stream = io.StringIO()
    render(found, Console(file=stream, width=100))
    text = stream.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for words in (
        "digits, recipe tiny, on board",
        "0.1 ms → 0.5 ms, 5.00x",
        "worse",
        "+1 B",
        "before: runs vary by 14 %",
    ):
        assert words in text, words
    assert text.splitlines()[-1] == "worse beyond noise"


def test_names_are_never_read_as_markup(one, make_row):
    row = make_row("[red]net[/red]", 1000)
    stream = io.StringIO()
    render(compare(one(row), one(row)), Console(file=stream, width=120))
    assert "[red]net[/red]" in stream.getvalue()


def test_json_has_the_names_of_the_code_and_no_nan(one, make_row):
    bad = one(make_row("net", 1000, score={"top1": math.nan}))
    raw = json.loads(to_json(compare(bad, bad)), parse_constant=pytest.fail)
    assert raw["schema"] == 1
    assert raw["worse"] is False
    assert {"model", "figure", "before", "after", "verdict", "words", "p", "noise"} == raw["moves"][0].keys()


def test_the_command_compares_and_its_exit_code_is_a_gate(report, make_row, tmp_path):
    grown = replace(report, rows=(*report.rows[:-1], replace(report.rows[-1], bytes=61_000)))
    save(report, tmp_path / "main")
    save(grown, tmp_path / "branch")
    same = edgepress("report", "--compare", tmp_path / "main", tmp_path / "main" / "report.json")
    assert same.code == 0
    assert "nothing is worse beyond noise" in same.out
    worse = edgepress("report", "--compare", tmp_path / "main", tmp_path / "branch", "--json")
    assert worse.code == 1
    assert worse.json["worse"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--compare nowhere.json nowhere.json", "cannot be read (No such file or directory); expected a report.json"),
        ("--compare notes.json notes.json", "notes.json: this is no report of edgepress"),
        ("--compare bytes.json bytes.json", "bytes.json: 'utf-8' codec can't decode"),
        ("net.onnx --compare a.json b.json", "--compare reads two reports and measures nothing; leave out: ARTIFACTS"),
        ("--compare a.json b.json --budget size<1MB --runs 20", "leave out: --budget, --runs"),
        ("", "name the artifacts to measure, or two reports with --compare."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.json").write_text("{}", encoding="utf-8")
    Path("bytes.json").write_bytes(b"\xff\xfe")
    said = edgepress("report", *arguments.split())
    assert said.code == 2
    assert message in said.complaint


def test_a_report_is_read_from_its_file_or_its_folder(report, tmp_path):
    save(report, tmp_path)
    assert read_report(tmp_path) == read_report(tmp_path / "report.json") == report
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "other.json")


def test_a_real_file_measured_twice_is_compared_with_itself(make_artifact):
    from edgepress.devices import find_device, measure

    host = replace(find_device("host"), threads=1)
    first, second = (Report("net", host, measure([make_artifact("small")], host, runs=20)) for _ in range(2))
    found = compare(first, second)
    assert [move.figure for move in found.moves] == ["size", "latency", "memory"]
    latency = found.moves[1]
    assert latency.p is not None
    assert 0 < latency.p <= 1
    assert found.moves[0].verdict == "same"
    assert np.isfinite([latency.before, latency.after, latency.noise]).all()
