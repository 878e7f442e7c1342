import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from edgepress.devices import find_device
from edgepress.devices.beside import (
    refuse_foreign_list,
    render_all,
    save_all,
    to_json_list,
    to_markdown_list,
)  # fmt: skip
from edgepress.devices.device import unreached
from edgepress.devices.report import Report, from_json
from edgepress.runtime.errors import UsageError
from edgepress.runtime.golden import SelfTest


@pytest.fixture
def reports(make_row):
    fast, slow = (replace(find_device("pi5"), name=name) for name in ("fast", "slow"))
    pair = [make_row("base", 1000, ms=1.0), make_row("small", 300, ms=0.5)]
    late = [make_row("base", 1000, ms=9.0, run="2"), make_row("small", 300, ms=6.0, run="2")]
    return (
        Report("small on fast", fast, tuple(pair), budget="latency < 1 ms", ships="small"),
        Report("small on slow", slow, tuple(late), budget="latency < 1 ms", misses=("too slow",), ships="small"),
        Report("not measured on gone", unreached("gone", "ssh://pi@gone"), (), failure="there is no host gone"),
    )


def shown(reports, width: int = 100) -> str:
    out = io.StringIO()
    render_all(reports, Console(file=out, width=width))
    return out.getvalue()


def test_each_device_has_its_row_and_speeds_are_of_its_own_baseline(reports):
    lines = [line.strip() for line in shown(reports).splitlines()]
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("device")) :]
    fast, slow, gone = (next(i for i, line in enumerate(table) if line.startswith(n)) for n in ("fast", "slow", "gone"))
    assert table[fast].split() == ["fast", "1", "ms", "0.5", "ms", "fits"]
    assert table[fast + 1].split() == ["1x", "2.00x"]
    assert table[slow].split()[-3:] == ["over", "the", "budget"]
    assert table[slow + 1].split() == ["1x", "1.50x"]
    assert "failed: there is no host gone" in table[gone]


def test_a_device_that_failed_is_told_in_its_own_report_too(reports):
    assert "not measured on gone\nssh://pi@gone\nfailed there is no host gone" in shown(reports)


def test_it_fits_into_80_columns(reports):
    assert max(map(len, shown(reports, 80).splitlines())) <= 80


def test_a_wrong_self_test_and_an_emulated_board_are_the_verdict(reports, make_row):
    wrong = replace(make_row("base", 1000), selftest=SelfTest(1, 1.0, 1e-5))
    emulated = replace(find_device("pi5"), link="emu://pi5")
    assert "other outputs than the golden ones: base" in shown([replace(reports[0], rows=(wrong,))])
    rows = (make_row("base", 1000, ms=None),)
    assert "emulated, not a measurement" in shown([Report("base", emulated, rows, budget="size < 1 MB")])


def test_the_json_holds_all_reports_and_each_can_be_read_alone(reports):
    raw = json.loads(to_json_list(reports))
    assert raw["fits"] is False
    again = [from_json(json.dumps(one)) for one in raw["reports"]]
    assert [one.failure for one in again] == ["", "", "there is no host gone"]
    assert [one.rows for one in again] == [one.rows for one in reports]
    assert json.loads(to_json_list(reports[:1]))["fits"] is True


def test_the_markdown_has_the_table_and_each_report(reports):
    text = to_markdown_list(reports)
    assert text.splitlines()[0].split("|")[1].strip() == "device"
    for report in reports:
        assert f"# {report.title}" in text
    assert "**failed** there is no host gone" in text


def test_its_three_files_are_written_and_foreign_ones_are_kept(reports, tmp_path):
    save_all(reports, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reports.html", "reports.json", "reports.md"]
    assert "<title>small on 3 devices</title>" in (tmp_path / "reports.html").read_text(encoding="utf-8")
    refuse_foreign_list(tmp_path)
    (tmp_path / "reports.json").write_text("mine")
    with pytest.raises(UsageError, match="would be lost"):
        refuse_foreign_list(tmp_path)
