import math
from dataclasses import replace

import pytest

from edgepress.devices.pictures import latency, look, placement, ships, trade

from .reports import of_passes


@pytest.fixture
def report(make_row):
    return of_passes(make_row)


def test_the_score_is_drawn_over_size_and_over_latency(report):
    size, time = trade(report)
    assert "top1 over size on disk" in size.svg
    assert "top1 over latency, median" in time.svg
    assert "digits-tiny: size on disk 60 kB, top1 0.9907" in size.svg
    assert "digits-tiny: latency, median 0.1 ms, top1 0.9907" in time.svg


def test_without_scores_latency_is_drawn_over_size(report):
    (only,) = trade(replace(report, rows=tuple(replace(row, score=None) for row in report.rows)))
    assert "latency, median over size on disk" in only.svg


def test_what_was_not_timed_has_no_picture_of_its_latency(report):
    untimed = replace(report, rows=tuple(replace(row, timing=None) for row in report.rows))
    assert [("size on disk" in picture.svg) for picture in trade(untimed)] == [True]
    assert latency(untimed) == []


def test_one_model_alone_makes_no_scatter(report):
    assert trade(replace(report, rows=report.rows[:1])) == []


def test_a_score_that_is_no_number_is_left_out(report):
    bad = replace(report.rows[1], score={"top1": math.nan})
    size, _ = trade(replace(report, rows=(report.rows[0], bad, *report.rows[2:])))
    assert "1-structured" not in size.svg


def test_latencies_are_drawn_as_distributions_and_round_by_round(report):
    spread, rounds = latency(report)
    assert "digits-fp32: median 0.271 ms" in spread.svg
    assert "100 runs" in spread.svg
    assert "latency, median of the round over round" in rounds.svg


def test_a_run_of_one_round_has_no_curve(report):
    rows = tuple(replace(r, timing=replace(r.timing, rounds=r.timing.rounds[:1])) for r in report.rows if r.timing)
    assert len(latency(replace(report, rows=rows))) == 1


def test_a_row_looks_like_what_became_of_it(report, make_row):
    assert [look(report, row) for row in report.rows] == ["base", "kept", "undone", "ships"]
    assert look(report, make_row("somebody's", 1000)) == "other"


def test_a_family_ships_with_all_its_members(report, make_row):
    family = replace(report, ships="digits")
    assert ships(family, make_row("digits/onnx", 1000))
    assert not ships(family, make_row("digits-fp32", 1000))
    assert not ships(replace(report, ships=""), make_row("digits/onnx", 1000))


def test_a_row_that_knows_its_placement_has_a_bar_and_the_others_have_none(report):
    assert placement(report) == []
    placed = replace(report.rows[0], placement={"npu": 0.75, "cpu": 0.25, "gpu": 0.0})
    (picture,) = placement(replace(report, rows=(placed, *report.rows[1:])))
    assert picture.svg.index("digits-fp32: npu 75.0%") < picture.svg.index("digits-fp32: cpu 25.0%")
    assert "gpu" not in picture.svg
    assert "1-structured" not in picture.svg
