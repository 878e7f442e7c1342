from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from edgepress.devices.html import shipped, summary, to_html
from edgepress.devices.report import Report

from .browser import Opened, chromium
from .pages import COLLISIONS, HOSTILE, check_escapes, check_looks, check_runs_nothing, opening, with_every_text
from .reports import of_passes


@pytest.fixture
def report(make_row) -> Report:
    return of_passes(make_row)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    with opening(browser, tmp_path / "report.html", to_html) as found:
        yield found


def bare(report: Report, make_row) -> Report:
    """On a device that could not be reached."""
    rows = (make_row("fp32", 2000, ms=None), make_row("int8", 1000, ms=None))
    return Report("int8 on pi5", replace(report.device, link=""), rows, ships="int8")


def test_nothing_from_outside_becomes_markup(report):
    check_escapes(report, to_html)


def test_a_hostile_report_runs_nothing_and_asks_for_nothing(report, opened):
    check_runs_nothing(opened(with_every_text(report, lambda text: text + HOSTILE)))


@pytest.mark.parametrize("width", [1100, 768, 375, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_in_light_and_dark_on_a_desk_and_on_a_phone(report, opened, dark, width):
    check_looks(opened(report, dark=dark, width=width), dark=dark, width=width)


@pytest.mark.parametrize("width", [1100, 375])
def test_no_label_lies_on_another(report, opened, width):
    assert opened(report, width=width).page.evaluate(COLLISIONS) == []


def test_long_names_do_not_make_a_phone_scroll_sideways(report, opened):
    long = with_every_text(report, lambda text: text + "-sentence_transformers_all_minilm_l6_v2" * 3)
    assert opened(long, width=375).page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_sections_are_those_that_the_report_has_figures_for(report, opened, make_row):
    page = opened(report).page
    assert page.locator("h2").all_inner_texts() == [
        "All models", "Read with care", "What each pass cost and gained", "Size, latency, score", "Latency", "Scores",
        "Compressed, as a download (deflate)", "Provenance",
    ]  # fmt: skip
    page = opened(bare(report, make_row)).page
    assert page.locator("h2").all_inner_texts() == ["All models", "Provenance"]
    assert page.locator("svg").count() == 0


def test_models_whose_engine_told_have_a_bar_of_where_they_run(report, opened):
    placed = replace(report.rows[0], placement={"npu": 0.62, "cpu": 0.3})
    page = opened(replace(report, rows=(placed, *report.rows[1:]))).page
    bars = page.locator("section", has=page.get_by_role("heading", name="Where it runs"))
    words = ["npu 62.0%", "cpu 30.0%", "digits-fp32", "no known unit 8.0%"]
    assert bars.locator("svg text").all_text_contents() == words
    assert "digits-fp32: no known unit 8.0%" in bars.locator("title").all_text_contents()
    assert "where it runs" not in page.locator("h2").all_inner_texts()


def test_the_table_has_a_line_for_each_model_with_its_verdict(report, opened):
    lines = opened(report).page.locator("tbody tr").all_inner_texts()
    assert len(lines) == 4
    for words in ("digits-tiny", "kept", "60 kB", "0.19x", "0.1 ms", "2.71x", "0.9907", "-0.19"):
        assert words in lines[3], words
    assert "undone" in lines[2]


def test_each_pass_is_held_against_what_was_kept_before_it(report, opened):
    steps = opened(report).page.locator(".step").all_inner_texts()
    assert len(steps) == 4
    for words in ("0.38x · 120 kB", "0.55x · 0.148 ms", "-0.38 points · 0.9888", "0.38x the bytes, 1.83x as fast"):
        assert words in steps[0], words
    assert "2.36x · 0.35 ms" in steps[1]
    for words in ("0.50x · 60 kB", "+0.19 points · 0.9907"):  # beside 1-structured, for 2-weight_only was undone
        assert words in steps[2], words
    assert "mixed" in steps[3]
    assert "nothing to do" in steps[3]


def test_the_provenance_of_a_model_unfolds_without_a_script(report, opened):
    page = opened(report).page
    last = page.locator("details").last
    assert "structured" not in last.inner_text()
    last.locator("summary").click()
    assert "structured(share=0.5): half the channels are gone" in last.inner_text()
    assert "0" * 64 in last.inner_text()


def test_the_verdict_on_the_budget_stands_at_the_top(report, opened):
    assert opened(report).page.locator(".verdict").inner_text() == "✓ fits the budget size<100kB, drop<1%"
    over = opened(replace(report, misses=("size 60 kB, budget < 50 kB",))).page
    assert over.locator(".verdict").inner_text() == "✗ over the budget size<100kB, drop<1%"
    assert over.locator(".misses").inner_text() == "size 60 kB, budget < 50 kB"
    assert opened(replace(report, budget="")).page.locator(".verdict").count() == 0


def test_the_summary_is_a_sentence_about_what_ships(report, make_row):
    assert summary(report) == (
        "digits-tiny takes 60 kB, 0.19x of digits-fp32, and is 2.71x as fast (0.1 ms). top1 is 0.9907, -0.19 points."
    )
    assert summary(replace(report, ships="digits-fp32", rows=report.rows[:3])) == (
        "No pass paid: the model ships as it came. It takes 320 kB and 0.271 ms a run. top1 is 0.9926."
    )
    assert summary(replace(report, rows=report.rows[:1], ships="digits-fp32")) == (
        "digits-fp32 takes 320 kB and 0.271 ms a run. top1 is 0.9926."
    )
    assert summary(bare(report, make_row)) == ("int8 takes 1 kB, 0.50x of fp32; its latency was not measured on board.")


@pytest.mark.parametrize(("ms", "words"), [(2.0, "2.00x slower (2 ms)"), (1.0, "as fast within noise (1 ms)")])
def test_the_summary_says_slower_where_it_is(report, make_row, ms, words):
    rows = (make_row("fp32", 2000, ms=1.0), make_row("int8", 1000, ms=ms))
    assert words in summary(replace(report, rows=rows, ships="int8"))


def test_a_family_is_told_by_its_first_member(report, make_row):
    rows = (make_row("fp32", 2000), make_row("int8/onnx", 1000), make_row("int8/tflite", 900))
    assert summary(replace(report, rows=rows, ships="int8")).startswith("int8/onnx takes 1 kB")
    assert 'class="ships"' in to_html(replace(report, rows=rows, ships="int8"))


def test_the_page_speaks_of_what_ships_or_else_of_the_last_that_was_kept(report):
    assert shipped(report).name == "digits-tiny"
    assert shipped(replace(report, ships="", rows=report.rows[:3])).name == "1-structured"  # 2-weight_only is undone


def test_a_report_without_rows_says_so(report):
    page = to_html(replace(report, rows=(), misses=("the board does not answer",)))
    assert "Nothing was measured." in page
    assert "the board does not answer" in page


def test_timings_of_two_runs_have_no_speed(report):
    other = replace(report.rows[-1], timing=replace(report.rows[-1].timing, run="2"))
    page = to_html(replace(report, rows=(*report.rows[:-1], other)))
    assert "2.71x" not in page
    assert "0.38x · 120 kB" in page
