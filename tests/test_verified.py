"""What verify saw, in the terminal, as markdown and as JSON: every figure, every breach, every layer."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.part import Parted
from edgepress.compress.tokenization import Difference
from edgepress.compress.verified import FILES, refuse_unwritable, render, save, to_json, to_markdown, to_text, wrong
from edgepress.compress.verify import Replay, Verified
from edgepress.export.bisect import Parting
from edgepress.export.parity import Sample, Side, hold
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import UsageError
from edgepress.runtime.golden import SelfTest


def side(name: str, precision: str, history: tuple[Step, ...] = (), off: float = 0.0, **score: float) -> Side:
    def run(inputs):
        x = inputs["x"]
        return {"logits": x + off * x[:, ::-1]}

    return Side(name, "onnx", precision, history, run, score)


X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
INT8 = (Step("static_int8"),)
SIDES = (
    side("fp32", "float32", top1=0.99),
    side("int8", "int8", INT8, 0.01, top1=0.98),
    side("off", "float32", (), 0.1),
)
PARITY = hold(SIDES, [Sample("golden", {"x": X}), Sample("zeros", {"x": np.zeros_like(X)})])
LAYER = Parting(("stem.0", "stem.1"), "relu", "off", (1e-7, 0.5), (0, 3), (0.25, -1.5), 0.25)
FOUND = Verified(
    (
        Replay(Path("out/fp32"), "cpu", SelfTest(2, 1e-7, 1e-4)),
        Replay(Path("out/int8"), "openvino", SelfTest(2, 0.5, 0.05)),
    ),
    PARITY,
    (Difference("source", "int8", 1, 9, "a text", ((1, 2), (1, 3))),),
    ("labels.json is not the same in fp32, int8",),
    (Parted(PARITY.pairs[1], LAYER), Parted(PARITY.pairs[2], None, "no layer stands out")),
    ("one sample was left out",),
)


def test_json_holds_everything_and_is_strict() -> None:
    raw = json.loads(to_json(FOUND), parse_constant=pytest.fail)
    assert raw["passed"] is False
    assert raw["replays"][0] == {
        "path": "out/fp32", "provider": "cpu", "recorded": True, "passed": True, "cases": 2, "difference": 1e-7,
        "tolerance": 1e-4,
    }  # fmt: skip
    assert [(pair["a"], pair["b"]) for pair in raw["parity"]["pairs"]] == [
        ("fp32", "int8"), ("fp32", "off"), ("int8", "off"),
    ]  # fmt: skip
    assert raw["parity"]["sides"][0]["score"] == {"top1": 0.99}
    assert raw["assets"] == ["labels.json is not the same in fp32, int8"]
    assert raw["parted"][0]["layer"]["modules"] == ["stem.0", "stem.1"]
    assert raw["parted"][1] == {"a": "int8", "b": "off", "layer": None, "reason": "no layer stands out"}
    infinite = replace(FOUND, replays=(Replay(Path("x"), "cpu", SelfTest(1, math.inf, 1e-4)),))
    assert json.loads(to_json(infinite), parse_constant=pytest.fail)["replays"][0]["difference"] == "inf"


def test_a_replay_says_whether_the_outputs_are_those_recorded_and_by_which_provider() -> None:
    assert to_text(FOUND).splitlines() == [
        "out/fp32: hashes as exported, outputs as recorded",
        "  2 golden samples, difference 1.0e-07, tolerance 1.0e-04",
        "out/int8: hashes as exported, OUTPUTS DIFFER from the recorded ones; do not ship it",
        "  2 golden samples, difference 5.0e-01, tolerance 5.0e-02, by openvino",
        "one sample was left out",
    ]


def test_of_a_bare_file_it_says_that_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.touch()
    good, bad = (
        to_text(Verified((Replay(path, "cpu", SelfTest(1, difference, 1e-4)),))) for difference in (0.0, math.inf)
    )
    assert good.splitlines() == [
        f"{path}: a bare file of which nothing is recorded",
        "  run on invented inputs: finite outputs, twice alike",
    ]
    assert "OUTPUTS NOT FINITE, or not twice alike" in bad


def test_what_is_wrong_is_said_with_the_layer_and_both_values() -> None:
    lines = wrong(FOUND)
    assert lines[0].startswith("the tokenizers of source and int8 differ on 1 of 9 texts")
    assert lines.pop(1) == "labels.json is not the same in fp32, int8"
    assert lines[1].startswith("fp32 and off part: mean cosine")
    at = "at [0, 3] fp32 has 0.25, off has -1.5, expected 0.25"
    assert lines[2] == f"  first at stem.0 + stem.1 (relu), where off is further from the source: {at}"
    assert lines[-1] == "  no layer is named: no layer stands out"


def test_the_terminal_shows_each_pair_with_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    render(FOUND)
    words = " ".join(capsys.readouterr().out.split())
    assert "held against each other on 1 golden, 1 unnatural samples" in words
    assert "fp32: onnx float32, top1 0.9900" in words
    assert "0.99999 " in words
    assert "first at stem.0 + stem.1" in words


def test_markdown_has_a_row_a_pair_and_marks_what_parted() -> None:
    rows = [line for line in to_markdown(FOUND).splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 3
    assert "PARTED" not in rows[0]
    assert "PARTED" in rows[1]
    assert "PARTED" not in rows[2]


def test_a_folder_is_written_again_and_somebody_elses_files_are_left(tmp_path: Path) -> None:
    for _ in range(2):
        refuse_unwritable(tmp_path)
        save(FOUND, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "parity.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"parity\.md is not from edgepress verify and would be lost"):
        refuse_unwritable(tmp_path / "other")


def test_without_a_matrix_there_is_no_picture(tmp_path: Path) -> None:
    save(replace(FOUND, parity=None), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parity.json", "parity.md"]
