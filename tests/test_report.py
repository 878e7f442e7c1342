import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgepress.devices import find_device
from edgepress.devices.report import Report, from_json, render, save, to_json, to_markdown
from edgepress.runtime.errors import DataError
from edgepress.runtime.golden import SelfTest
from edgepress.runtime.machine import Doubt

NOISY = Doubt("noisy", "runs vary by 14 %; close other programs")


@pytest.fixture
def report(make_row) -> Report:
    base = make_row("digits", 320_000, ms=0.271, score={"top1": 0.9926, "top5": 0.9999})
    int8 = make_row("digits-int8", 98_000, ms=0.148, score={"top1": 0.9907, "top5": 0.9999})
    slow = make_row("digits-int4", 60_000, ms=0.35, score={"top1": 0.9907, "top5": 0.9999})
    undone = replace(slow, kept=False, why="0.61x the bytes, 2.36x slower; undone: worse latency")
    rows = tuple(replace(row, doubts=(NOISY,)) for row in (base, replace(int8, why="0.31x the bytes"), undone))
    device = replace(find_device("pi5"), name="host")
    return Report("digits, recipe int4", device, rows, "size<100kB, drop<1%")


def printed(report: Report, width: int, *, color: bool = False) -> str:
    stream = io.StringIO()
    system = "truecolor" if color else None
    render(report, Console(file=stream, width=width, force_terminal=color, color_system=system))
    return stream.getvalue()


def test_json_gives_the_same_report_back_with_every_sample(report):
    assert from_json(to_json(report)) == report
    raw = json.loads(to_json(report))
    assert raw["schema"] == 1
    assert raw["fits"] is True
    assert len(raw["rows"][0]["timing"]["rounds"]) == 20
    assert raw["rows"][1]["score"] == {"top1": 0.9907, "top5": 0.9999}


def test_the_shares_of_each_unit_come_back_and_an_older_report_has_none(report):
    placed = replace(report, rows=(replace(report.rows[0], placement={"npu": 0.62, "cpu": 0.38}), *report.rows[1:]))
    assert from_json(to_json(placed)) == placed
    raw = json.loads(to_json(report))
    for row in raw["rows"]:
        del row["placement"], row["timing"]["placed"]
    assert from_json(json.dumps(raw)) == report


def test_where_a_model_runs_is_said_only_of_one_that_does_not_run_where_it_was_asked_to(report):
    first, *others = (replace(row, placement={"cpu": 1.0}) for row in report.rows)
    mixed = replace(first, placement={"npu": 0.62, "cpu": 0.38})
    for show in (to_markdown, lambda one: printed(one, 120)):
        assert "where it runs" not in show(replace(report, rows=(first, *others)))
        said = show(replace(report, rows=(mixed, *others)))
        assert "digits: 62.0% of the multiply-accumulates on npu, 38.0% on cpu" in said
        assert "digits-int8: 100" not in said


def test_json_is_strict_where_figures_are_no_numbers(report):
    bad = replace(report.rows[1], score={"top1": math.nan}, selftest=SelfTest(1, math.inf, 1e-5))
    text = to_json(replace(report, rows=(report.rows[0], bad)))

    def refuse(name: str) -> float:
        raise AssertionError(name)

    json.loads(text, parse_constant=refuse)
    row = from_json(text).rows[1]
    assert row.score is not None
    assert math.isnan(row.score["top1"])
    assert row.selftest is not None
    assert row.selftest.difference == math.inf


def test_rows_without_figures_survive_json(report, make_row):
    bare = replace(make_row("bare", 1000, ms=None), selftest=None)
    assert from_json(to_json(replace(report, rows=(bare,)))).rows == (bare,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "device": {}, "rows": [1]}'])
def test_text_that_is_no_report_is_refused(text):
    with pytest.raises(DataError, match="this is no report of edgepress"):
        from_json(text)


def test_a_report_of_a_newer_version_is_refused():
    with pytest.raises(DataError, match="schema 2, this edgepress reads 1; upgrade it"):
        from_json('{"schema": 2}')


def test_the_download_is_told_beside_the_baselines(report, make_row):
    base, small = make_row("fp32", 1_000_000, compressed=900_000), make_row("pruned", 1_000_000, compressed=450_000)
    told = replace(report, rows=(base, small))
    for text in (printed(told, 80), to_markdown(told)):
        assert "fp32: 900 kB" in text
        assert "pruned: 450 kB, 0.50x" in text
    assert from_json(to_json(told)).rows == (base, small)
    assert "as a download" not in to_markdown(report)


def test_a_report_that_knows_no_downloads_and_no_history_is_read(report):
    raw = json.loads(to_json(report))
    for row in raw["rows"]:
        del row["compressed"], row["history"], row["tools"]
    assert from_json(json.dumps(raw)).rows == report.rows


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_holds_every_figure(report, width):
    text = printed(report, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for word in ("digits", "320 kB", "98 kB", "0.31x", "0.271 ms", "0.148 ms", "1.83x", "10 ms", "150 ms", "60 MB",
                 "0.9926", "0.9907", "-0.19", "baseline", "kept", "undone"):  # fmt: skip
        assert word in text, word
    assert "…" not in text


def test_without_a_terminal_there_is_no_colour_code(report):
    assert "\x1b" not in printed(report, 80)
    assert "\x1b" in printed(report, 80, color=True)


def test_names_are_never_read_as_markup(report, make_row):
    odd = make_row("[red]odd[/red]", 1000)
    text = printed(replace(report, rows=(odd,), title="[bold]x"), 120)
    assert "[red]odd[/red]" in text
    assert "[bold]x" in text


def test_a_long_name_is_folded_and_not_cut(report, make_row):
    name = "sentence-transformers-all-minilm-l6-v2-int8"
    text = printed(replace(report, rows=(make_row(name, 22_700_000, ms=17.6),)), 80)
    column = "".join(line.split()[0] for line in text.splitlines() if line.strip())
    assert name in column


def test_a_speed_is_shown_only_for_timings_of_one_run(report):
    other = replace(report.rows[1], timing=replace(report.rows[1].timing, run="2"))
    text = printed(replace(report, rows=(report.rows[0], other)), 80)
    assert "1.83x" not in text
    assert "—" in text


def test_what_was_not_timed_is_a_dash_and_not_a_number(report, make_row):
    rows = (make_row("a", 2000, ms=None), make_row("b", 1000, ms=None))
    line = next(line for line in to_markdown(replace(report, rows=rows)).splitlines() if line.startswith("| b |"))
    assert line == "| b | 1 kB | 0.50x | — | — | — |  | — | — | — | — |  |  |"


def test_a_verdict_is_shown_only_where_a_step_was_judged(report, make_row):
    assert "kept" not in printed(replace(report, rows=(make_row("a", 2000), make_row("b", 1000))), 80)
    firsts = [line.split()[0] for line in printed(report, 80).splitlines() if line.strip()]
    assert firsts[firsts.index("digits-int8") + 1] == "kept"
    assert firsts[firsts.index("digits-int4") + 1] == "undone"


def test_why_a_step_was_undone_stands_below_the_table(report):
    for text in (printed(report, 120), to_markdown(report)):
        assert "digits-int4: 0.61x the bytes, 2.36x slower; undone: worse latency" in text


def test_a_doubt_about_all_is_said_once_and_one_about_some_names_them(report):
    assert printed(report, 120).count(NOISY.text) == 1
    assert f"digits: {NOISY.text}" not in printed(report, 120)
    first, *rest = report.rows
    quiet = tuple(replace(row, doubts=()) for row in rest)
    assert f"digits: {NOISY.text}" in printed(replace(report, rows=(first, *quiet)), 120)


def test_the_budget_is_named_with_what_is_missed(report):
    assert report.fits
    assert "fits the budget size<100kB, drop<1%" in printed(report, 80)
    over = replace(report, misses=("latency 2.3 ms, budget < 2 ms",))
    assert not over.fits
    for text in (printed(over, 80), to_markdown(over)):
        assert "over the budget size<100kB, drop<1%" in text
        assert "latency 2.3 ms, budget < 2 ms" in text


def test_markdown_is_a_table_whose_rows_are_equally_long(report):
    odd = replace(report.rows[1], name="a|b")
    table = [line for line in to_markdown(replace(report, rows=(*report.rows, odd))).splitlines() if line[:1] == "|"]
    assert len(table) == 2 + 4
    assert {line.replace("\\|", "").count("|") for line in table} == {14}
    assert "0.148 ms" in table[3]
    assert "| -0.19 |" in table[3]


def test_saving_writes_its_three_files_and_nothing_else(report, tmp_path):
    save(report, tmp_path / "out")
    save(replace(report, title="again"), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "report.md"]
    assert from_json((tmp_path / "out" / "report.json").read_text(encoding="utf-8")).title == "again"
    assert Path(tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# again\n")
    assert "<title>again</title>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_report_of_a_real_measurement_comes_back_whole(make_artifact, tmp_path):
    from edgepress.devices.measure import measure

    host = replace(find_device("host"), threads=1)
    rows = measure([make_artifact("base", width=512, depth=2), make_artifact("small")], host, runs=20)
    report = Report("perceptrons", host, rows)
    save(report, tmp_path)
    assert from_json((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert "small" in printed(report, 80)
