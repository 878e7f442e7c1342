from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from edgepress.devices.html_fleet import overview, to_html_list
from edgepress.devices.report import Report
from edgepress.runtime.golden import SelfTest

from .browser import Opened, chromium
from .pages import COLLISIONS, HOSTILE, check_escapes, check_looks, check_runs_nothing, opening, with_every_text
from .reports import of_devices


@pytest.fixture
def reports(make_row) -> tuple[Report, ...]:
    """Of kitchen (fits), cellar (over the budget), pi5 (not timed) and attic (failed)."""
    return of_devices(make_row)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    with opening(browser, tmp_path / "reports.html", to_html_list) as found:
        yield found


def test_nothing_from_outside_becomes_markup(reports):
    check_escapes(reports, to_html_list)


def test_hostile_reports_run_nothing_and_ask_for_nothing(reports, opened):
    check_runs_nothing(opened(with_every_text(reports, lambda text: text + HOSTILE)))


@pytest.mark.parametrize("width", [1100, 768, 375, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_in_light_and_dark_on_a_desk_and_on_a_phone(reports, opened, dark, width):
    seen = opened(reports, dark=dark, width=width)
    check_looks(seen, dark=dark, width=width)
    assert seen.page.evaluate(COLLISIONS) == []


def test_long_names_do_not_make_a_phone_scroll_sideways(reports, opened):
    long = with_every_text(reports, lambda text: text + "-sentence_transformers_all_minilm_l6_v2" * 3)
    assert opened(long, width=375).page.evaluate("document.documentElement.scrollWidth") <= 375


def test_each_device_has_its_sentence_its_lines_and_its_own_section(reports, opened):
    page = opened(reports).page
    assert page.locator("h1").inner_text() == "digits-int8 on 4 devices"
    assert page.locator("h2").all_inner_texts() == [
        "Device by device", "All models on all devices", "Scores", "Compressed, as a download (deflate)", "kitchen",
        "cellar", "pi5",
    ]  # fmt: skip
    sentences = page.locator(".step").all_inner_texts()
    assert "digits-int8 takes 98 kB, 0.31x of digits-fp32, and is 1.83x as fast (0.148 ms)" in sentences[0]
    assert "and is 1.75x as fast (0.481 ms)" in sentences[1]
    assert "its latency was not measured on pi5" in sentences[2]
    assert "cannot reach 10.0.0.9 (Connection timed out)" in sentences[3]
    assert [text.splitlines()[1] for text in sentences] == ["fits", "over the budget", "over the budget", "failed"]
    assert page.locator(".group").all_inner_texts() == ["kitchen", "cellar", "pi5", "attic"]
    assert page.locator("tbody tr:not(.group):not(.failed)").count() == 6
    assert page.locator(".failed").inner_text().startswith("failed: cannot reach 10.0.0.9")


def test_a_name_leads_to_its_section_without_a_request(reports, opened):
    seen = opened(reports)
    seen.page.locator("h3 a", has_text="cellar").click()
    assert seen.page.url.endswith("reports.html#device-2")
    assert seen.page.locator("#device-2 h2").inner_text() == "cellar"
    assert len(seen.requests) == 1
    assert seen.page.locator("h3 a").count() == 3  # nothing is known of the one that failed


def test_no_figure_of_a_device_stands_beside_anothers_baseline(reports):
    kitchen, cellar, *_ = reports
    mixed = [replace(cellar, rows=(cellar.rows[0], kitchen.rows[1])), kitchen]
    page = to_html_list(mixed)
    assert "5.70x" not in page  # 0.844 ms over 0.148 ms, of two runs
    assert page.count("1.83x as fast") == 1


def test_doubts_and_charts_are_of_one_device_and_what_is_alike_is_said_once(reports, opened):
    page = opened(reports).page
    kitchen, cellar, pi5 = page.locator("section.device").all()
    assert "governor" not in kitchen.inner_text()
    assert "the frequency governor is ondemand" in cellar.inner_text()
    assert "nothing was timed on pi5" in pi5.inner_text()
    assert [one.locator("svg").count() for one in (kitchen, cellar, pi5)] == [4, 4, 0]
    assert "npu 40.0%" in kitchen.inner_text()
    assert "cpu 100.0%" in cellar.inner_text()
    assert page.get_by_text("top5 0.9999 (+0.00 points)").count() == 1
    cellar.locator("summary").first.click()
    assert "ssh://pi@10.0.0.8" in cellar.inner_text()


def test_what_differs_between_devices_is_told_on_each(reports, opened):
    kitchen, cellar, *_ = reports
    other = replace(cellar, rows=(cellar.rows[0], replace(cellar.rows[1], score={"top1": 0.98, "top5": 0.99})))
    page = opened([kitchen, other]).page
    assert page.locator("section.device h3", has_text="Scores").count() == 2
    assert page.locator("h2", has_text="Scores").count() == 0


def test_the_verdict_names_what_each_device_misses(reports, opened):
    page = opened(reports).page
    assert page.locator(".verdict").inner_text() == "✗ over the budget latency<0.3ms"
    assert page.locator(".misses li").all_inner_texts() == [
        "cellar: latency 0.481 ms, budget < 0.3 ms", "pi5: latency not measured on pi5, budget < 0.3 ms",
        "attic: failed",
    ]  # fmt: skip
    assert opened(reports[:1]).page.locator(".verdict").inner_text() == "✓ fits the budget latency<0.3ms"
    failed = opened([reports[0], reports[3]]).page
    assert failed.locator(".verdict").inner_text() == "✗ does not pass"
    assert failed.locator(".misses").inner_text() == "attic: failed"


def test_a_board_that_computes_wrongly_or_is_emulated_says_so(reports, opened):
    kitchen, _, pi5, _ = reports
    wrong = replace(kitchen, rows=tuple(replace(row, selftest=SelfTest(1, 1.0, 1e-5)) for row in kitchen.rows))
    emulated = replace(pi5, device=replace(pi5.device, link="emu://pi5"))
    first, second = opened([wrong, emulated]).page.locator(".step").all_inner_texts()
    assert "other outputs than the golden ones: digits-fp32, digits-int8" in first
    assert "emulated, not a measurement" in second


def test_the_overview_says_what_became_of_the_devices(reports):
    assert overview(reports) == "Timed on kitchen and cellar. Not timed on pi5. Failed on attic."
    assert overview(reports[:1]) == "Timed on kitchen."


def test_where_every_device_failed_only_the_reasons_are_left(reports, opened):
    page = opened([reports[3], replace(reports[3], device=replace(reports[3].device, name="barn"))]).page
    assert page.locator("h1").inner_text() == "Nothing measured on 2 devices"
    assert page.locator("h2").all_inner_texts() == ["Device by device"]
    assert "Failed on attic and barn." in page.locator("header").inner_text()


def test_one_model_alone_is_beside_nothing(reports, opened):
    single = [replace(report, rows=report.rows[:1]) for report in reports[:2]]
    page = opened(single).page
    assert page.locator(".moves").count() == 0
    assert "digits-fp32 takes 320 kB and 0.271 ms a run." in page.locator(".step").first.inner_text()
