import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgepress.devices import html_parts as parts
from edgepress.devices.charts import Picture
from edgepress.devices.report import Report

from .reports import of_passes


@pytest.fixture
def report(make_row) -> Report:
    return of_passes(make_row)


def page(body: str = "") -> str:
    return parts.page(title="a < b", where="here", summary="b & c", verdict="", body=[body, ""], beside="report.json")


def words(html: str) -> str:
    """The text of some HTML."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    return " ".join(found)


def test_the_page_forbids_all_but_its_own_style():
    style = re.search(r"<style>(.*?)</style>", page(), re.S)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in page()


def test_nothing_of_the_page_asks_for_anything():
    for forbidden in ("<script", "style=", "http:", "https:", "url(", "@import", "<link", "<img"):
        assert forbidden not in page(), forbidden


def test_texts_are_escaped_and_a_body_is_html():
    assert "<h1>a &lt; b</h1>" in page()
    assert "b &amp; c" in page()
    assert "<p>a body</p>" in page("<p>a body</p>")
    assert "every raw sample are in report.json beside this file" in page()


def test_a_section_without_a_body_is_none():
    assert parts.section("A", "why", "") == parts.charts([]) == parts.sub("") == ""
    assert parts.section("A & B", "", "<p>x</p>", level=3) == "<section><h3>A &amp; B</h3><p>x</p></section>"
    assert "<figcaption>a &lt; b</figcaption>" in parts.charts([Picture("<svg></svg>", "a < b")])


def test_a_line_of_the_table_has_a_cell_for_each_head(report):
    line = parts.table_line(report, report.rows[-1])
    assert line.count("<td") == len(parts.HEADS) == parts.head_line().count("<th")
    assert line.startswith('<tr class="ships">')
    for cell in ("digits-tiny", "kept", "60 kB", "0.19x", "2.71x", "-0.19"):
        assert cell in words(line), cell


def test_what_has_a_place_of_its_own_is_not_told_again(report):
    placed = replace(report.rows[0], placement={"npu": 0.5, "cpu": 0.5})
    told = parts.told(replace(report, rows=(placed, *report.rows[1:])))
    assert list(told) == ["Scores", "Compressed, as a download (deflate)"]
    single = tuple(replace(row, score={"top1": 0.9}) for row in report.rows)
    assert "Scores" not in parts.told(replace(report, rows=single))  # it stands in the table


def test_doubts_are_told_or_the_box_is_not_there(report):
    assert "close other programs" in parts.doubts(report, level=3)
    assert parts.doubts(replace(report, rows=report.rows[:1])) == ""


def test_moves_are_ratios_to_what_was_before(report):
    base, cut, *_ = report.rows
    told = words(parts.moves(cut, base, base))
    for move in ("0.38x · 120 kB", "0.55x · 0.148 ms", "1.00x · 60 MB", "-0.38 points · 0.9888"):
        assert move in told, move
    other = replace(cut, timing=replace(cut.timing, run="2"), alone=None)
    assert "latency" not in parts.moves(other, base, base)
    assert "memory" not in parts.moves(other, base, base)
    assert parts.times(other, base) is None


def test_a_verdict_is_on_a_budget_or_on_a_failure():
    assert parts.verdict("", [], fits=True) == ""
    assert "✓ fits the budget size&lt;1MB" in parts.verdict("size<1MB", [], fits=True)
    assert words(parts.verdict("size<1MB", ["2 MB"], fits=False)) == "✗ over the budget size<1MB 2 MB"
    assert words(parts.verdict("", ["the board: failed"], fits=False)) == "✗ does not pass the board: failed"


def test_the_provenance_holds_each_models_file_and_history(report):
    told = parts.provenance(report)
    assert told.count("<details>") == 4
    assert "<code>" + "0" * 64 + "</code>" in told
    assert "structured(share=0.5): half the channels are gone" in told
