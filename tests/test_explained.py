"""What explain found reads the same in the terminal, as markdown, as JSON, and lies whole in its folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.compress.explain import Explanation, summary
from edgepress.compress.explained import FILES, refuse_unwritable, render, save, to_json, to_markdown
from edgepress.compress.sensitivity import Cost
from edgepress.runtime.errors import UsageError

COSTS = (
    Cost("body.0.fc", "Linear 64 -> 10", 640, 2600, "int4", 0.0312, 0.25, 2150, 0.0125, 0.025, 0.96),
    Cost("body.0.fc", "Linear 64 -> 10", 640, 2600, "int8", 0.00002, 0.0001, 1835, 0.0125, 0.005),
    Cost("a|b", "Embedding 4 -> 2", 8, 32, "int4", 1e-7, None, -12),
)
FOUND = Explanation("net", "host", "logits", {"top1": 0.98}, COSTS)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_holds_every_figure(width: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    render(FOUND)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    words = " ".join(out.split())
    assert all(sentence in words for sentence in summary(FOUND))
    figures = "0.031200", "0.250000", "0.9600", "-2.00", "2.15 kB", "12.5 us", "25 us", "-12 B", "0.000020"
    for figure in ("body.0.fc", "Linear 64 -> 10", *figures, "1 - mean cosine of logits"):
        assert figure in words, figure


def test_the_terminal_shows_the_worst_rows_and_says_how_many_more_there_are(capsys) -> None:
    many = tuple(replace(COSTS[0], layer=f"l{i}") for i in range(23))
    render(replace(FOUND, costs=many))
    out = capsys.readouterr().out
    assert "l19" in out
    assert "l20" not in out
    assert "3 more rows, with smaller drops: --out FOLDER or --json" in out


def test_markdown_has_every_row_in_a_table() -> None:
    lines = to_markdown(FOUND).splitlines()
    assert lines[0] == "# What each layer of net pays"
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + len(COSTS)
    figures = "0.031200 | 0.250000 | 0.9600 (-2.00) | 2.15 kB | 12.5 us | 25 us"
    assert rows[2] == f"| body.0.fc | Linear 64 -> 10 | 640 | int4 | {figures} |"
    assert rows[4] == "| a\\|b | Embedding 4 -> 2 | 8 | int4 | 0.000000 | — | — | -12 B | — | — |"


def test_json_has_the_names_of_the_code() -> None:
    raw = json.loads(to_json(FOUND))
    assert (raw["schema"], raw["score"], raw["summary"]) == (1, {"top1": 0.98}, summary(FOUND))
    assert Cost(**raw["costs"][0]) == COSTS[0]


def test_the_folder_holds_four_files_and_is_written_again_but_no_one_elses(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path)
    save(FOUND, tmp_path / "why")
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == sorted(FILES)
    assert (tmp_path / "why" / "explain.json").read_text(encoding="utf-8") == to_json(FOUND)
    refuse_unwritable(tmp_path / "why")
    (tmp_path / "explain.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"explain\.md is not from edgepress explain and would be lost"):
        refuse_unwritable(tmp_path)
