import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from edgepress.devices.html import summary, to_html
from edgepress.devices.report import Report

from .browser import Opened, chromium
from .reports import of_passes

HOSTILE = (
    "\"'><script>window.owned=1</script><img src=http://x.test/x onerror=owned()>"
    "<style>*{display:none}</style>$body&amp;"
)

# Contrast as WCAG 2 defines it, of each text with the background that lies behind it.
CONTRASTS = """() => {
  const rgb = css => css.match(/[\\d.]+/g).map(Number)
  const light = css => rgb(css).slice(0, 3).map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0)
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor
      if (rgb(color).length < 4 || rgb(color)[3] === 1) return color
    }
  }
  return [...document.querySelectorAll('body *')]
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
    .filter(node => node.tagName !== 'title' && node.getClientRects().length)
    .map(node => {
      const style = getComputedStyle(node)
      const [a, b] = [light(node instanceof SVGElement ? style.fill : style.color), light(behind(node))]
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), node.textContent]
    })
}"""
# Pairs of labels of one drawing that lie on each other.
COLLISIONS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
    .filter(([b, q]) => p.left + 1 < q.right && q.left + 1 < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
    .map(([b]) => `${a} on ${b}`))
})"""


@pytest.fixture
def report(make_row) -> Report:
    return of_passes(make_row)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """`opened(report, dark=..., width=...)`: the report's page, opened from disk."""
    contexts = []

    def open_(report: Report, *, dark: bool = False, width: int = 1100) -> Opened:
        path = tmp_path / "report.html"
        path.write_text(to_html(report), encoding="utf-8")
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}))
        return Opened(contexts[-1].new_page(), path)

    yield open_
    for context in contexts:
        context.close()


class Structure(HTMLParser):
    """The tags of a page with their attributes' names, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))


def with_every_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each text in it changed, however deep."""
    if isinstance(value, str):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: with_every_text(getattr(value, f.name), change) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(with_every_text(item, change) for item in value)
    if isinstance(value, dict):
        return {change(key): with_every_text(item, change) for key, item in value.items()}
    return Path(change(str(value))) if isinstance(value, Path) else value


def bare(report: Report, make_row) -> Report:
    """On a device that could not be reached."""
    rows = (make_row("fp32", 2000, ms=None), make_row("int8", 1000, ms=None))
    return Report("int8 on pi5", replace(report.device, link=""), rows, ships="int8")


def test_nothing_from_outside_becomes_markup(report):
    hostile, harmless = (
        with_every_text(report, lambda text, more=more: text + more) for more in (HOSTILE, "Q" * len(HOSTILE))
    )
    assert Structure(to_html(hostile)).tags == Structure(to_html(harmless)).tags


def test_a_hostile_report_runs_nothing_and_asks_for_nothing(report, opened):
    seen = opened(with_every_text(report, lambda text: text + HOSTILE))
    assert seen.page.evaluate("window.owned") is None
    assert [url for url in seen.requests if not url.startswith("file:")] == []
    assert "<script>window.owned=1</script>" in seen.page.locator("h1").inner_text()


def test_the_page_forbids_all_but_its_own_style(report):
    page = to_html(report)
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in page
    for forbidden in ("<script", "style=", "http:", "https:", "url(", "@import", "<link", "<img"):
        assert forbidden not in page, forbidden


@pytest.mark.parametrize("width", [1100, 768, 375, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_in_light_and_dark_on_a_desk_and_on_a_phone(report, opened, dark, width):
    seen = opened(report, dark=dark, width=width)
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
    contrasts = seen.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [(round(contrast, 2), text) for contrast, text in contrasts if contrast < 4.5] == []


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


def test_a_report_without_rows_says_so(report):
    page = to_html(replace(report, rows=(), misses=("the board does not answer",)))
    assert "Nothing was measured." in page
    assert "the board does not answer" in page


def test_timings_of_two_runs_have_no_speed(report):
    other = replace(report.rows[-1], timing=replace(report.rows[-1].timing, run="2"))
    page = to_html(replace(report, rows=(*report.rows[:-1], other)))
    assert "2.71x" not in page
    assert "0.38x · 120 kB" in page
