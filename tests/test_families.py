"""Families as they are made and looked at: by the pipeline, and from the command line."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.pipeline import compress
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.recipe import Recipe
from edgepress.compress.source import read_source
from edgepress.devices import find_device
from edgepress.devices.budget import parse_budget
from edgepress.devices.report import Report, from_json
from edgepress.runtime import load, read_family
from edgepress.runtime.artifact import check, describe, read_artifact
from edgepress.runtime.errors import UnsupportedError, UsageError
from edgepress.runtime.family import Measured, members
from edgepress.runtime.machine import this_machine

from .commands import Said, edgepress

FOUR = ("weight_only", WeightOnly(include=("0",)))
EIGHT = ("weight_only", WeightOnly(bits=8, include=("0",)))  # which TFLite has no terms for
REST = ("dynamic_int8", DynamicInt8(smooth=0.0))
TABLES = ("weight_only", WeightOnly(layers=("embedding",)))  # there are none


@pytest.fixture(scope="module")
def press(perceptron_task: Path):
    """`press(out, pass, …)`: `compress` the perceptron by a recipe `both`, for a Pi 5, which is not timed."""
    task = read_source(str(perceptron_task))

    def press(out: Path, *passes, to: str = "onnx,tflite", on: str = "pi5", budget: str = "", **more) -> Report:
        given = {"to": to, "on": find_device(on), "budget": parse_budget(budget), "out": out, **more}
        return compress(task.model, Recipe("both", "", passes), task.data, **given)

    return press


@pytest.fixture(scope="module")
def pressed(press, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A run on this machine, judged on TFLite."""
    out = tmp_path_factory.mktemp("pressed") / "out"
    return press(out, FOUR, REST, to="tflite,onnx", on="host", budget="size<40kB, latency<10s, drop<50%"), out


def test_several_formats_are_a_family_of_one_model_beside_a_baseline_of_the_first(pressed):
    report, out = pressed
    left = ["perceptron-both", "perceptron-fp32", "report.html", "report.json", "report.md"]
    assert sorted(path.name for path in out.iterdir()) == left
    assert list(read_family(out / "perceptron-both").members) == ["tflite", "onnx"]
    assert read_artifact(out / "perceptron-fp32").format == "tflite"
    one, other = (read_artifact(path) for path in members(out / "perceptron-both"))
    check(one)
    check(other)
    assert one.history == other.history
    assert one.history[0].settings["symmetric"] is True, "which suits both"
    assert report.ships == "perceptron-both"


def test_the_members_compute_with_the_same_integers(pressed):
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    one, other = (load(path)(input=x)["y"] for path in members(pressed[1] / "perceptron-both"))
    assert np.abs(one - other).max() / np.abs(other).max() < 0.02


def test_the_report_has_a_row_for_each_member_and_all_rows_are_of_one_run(pressed):
    report, out = pressed
    names = ["perceptron-fp32", "1-weight_only", "perceptron-both/tflite", "perceptron-both/onnx"]
    assert [row.name for row in report.rows] == names
    assert [row.format for row in report.rows] == ["tflite", "tflite", "tflite", "onnx"]
    *on_litert, on_onnx_runtime = (row.placement for row in report.rows)
    assert all(placement and set(placement) <= {"xnnpack", "cpu"} for placement in on_litert)
    assert on_onnx_runtime == {"cpu": 1.0}
    assert len({row.timing.run for row in report.rows}) == 1
    assert all(row.selftest.passed for row in report.rows)
    assert [row.path for row in report.rows[2:]] == [out / name for name in names[2:]]
    assert report.rows[2].score["r2"] == pytest.approx(report.rows[3].score["r2"], abs=1e-2)
    assert from_json((out / "report.json").read_text(encoding="utf-8")) == report


def test_the_family_knows_what_was_measured_and_where(pressed):
    report, out = pressed
    found = read_family(out / "perceptron-both")
    for row in report.rows[2:]:
        assert (found.members[row.format].bytes, found.members[row.format].p50_ms) == (row.bytes, row.timing.p50)
    machine = this_machine()
    assert found.measured == Measured("host", machine.arch, machine.cpu, machine.cores, None)
    assert found.parity is not None
    assert [(pair["a"], pair["b"]) for pair in found.parity["pairs"]] == [
        ("source", "tflite"), ("source", "onnx"), ("tflite", "onnx"),
    ]  # fmt: skip
    assert all(not pair["breaches"] for pair in found.parity["pairs"])
    assert from_json(json.dumps(found.report)) == report
    assert "the fastest on this kind of machine" in load(out / "perceptron-both").why


def test_every_member_must_fit_the_budget(press, tmp_path: Path):
    report = press(tmp_path / "out", FOUR, budget="size<1kB, latency<1s")
    assert [miss.split()[:2] for miss in report.misses] == [
        ["onnx:", "size"], ["onnx:", "latency"], ["tflite:", "size"], ["tflite:", "latency"],
    ]  # fmt: skip
    assert read_family(tmp_path / "out" / "perceptron-both").measured is None


def test_where_no_pass_pays_there_is_no_family_and_an_old_one_goes(press, pressed, tmp_path: Path):
    out = Path(shutil.copytree(pressed[1], tmp_path / "out"))
    with pytest.raises(UsageError, match="perceptron-fp32 exists already"):
        press(out, TABLES)
    assert press(out, TABLES, force=True).ships == "perceptron-fp32"
    assert sorted(path.name for path in out.iterdir()) == ["perceptron-fp32", "report.html", "report.json", "report.md"]


def test_what_another_format_has_no_terms_for_is_refused_by_name_and_the_first_one_alone_goes_on(press, tmp_path: Path):
    message = "tflite cannot hold what onnx holds: 0: TFLite has no 8 bit blocks; set .*; or leave tflite out"
    with pytest.raises(UnsupportedError, match=message):
        press(tmp_path / "out", EIGHT)
    assert not list((tmp_path / "out").glob("perceptron-*"))
    told: list[str] = []
    assert press(tmp_path / "out", EIGHT, to="onnx", tell=told.append).ships == "perceptron-both"
    assert "1-weight_only: exported already, by a run that was interrupted" not in told  # its blocks have other zeros
    assert "perceptron-fp32: exported already, by a run that was interrupted" in told


class Stop(BaseException):
    """As when the process is ended: nothing may catch it."""


def test_a_run_for_several_formats_may_be_ended_at_any_point(press, tmp_path: Path):
    out, heard = tmp_path / "out", set[str]()

    def tell(text: str) -> None:
        if text not in heard:
            heard.add(text)
            raise Stop

    report = None
    while report is None:
        assert not list(out.glob("perceptron-*")), "only what is complete gets its name"
        with suppress(Stop):
            report = press(out, FOUR, tell=tell)
    assert "exporting 1-weight_only-tflite to tflite" in heard
    assert "1-weight_only-tflite: exported already, by a run that was interrupted" in heard
    press(tmp_path / "whole", FOUR)
    for form in ("onnx", "tflite"):
        one, other = (read_artifact(place / "perceptron-both" / form) for place in (out, tmp_path / "whole"))
        assert describe(one.model) == describe(other.model)
    assert len(members(out / "perceptron-both")) == 2
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def exported(perceptron_task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Path]:
    """What `export` says to two formats, and the family that it wrote; to be copied, not changed."""
    out = tmp_path_factory.mktemp("family") / "fam"
    return edgepress("export", perceptron_task, "--to", "onnx,tflite", "--out", out), out


def test_export_to_several_formats_writes_a_family(exported, perceptron_task):
    said, out = exported
    assert said.code == 0
    assert said.out == f"written: {out} (onnx 71,011, tflite 71,996 bytes of model)\n"
    assert [line for line in said.err.splitlines() if line.startswith("exporting")] == [
        "exporting to onnx", "exporting to tflite",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["family.json", "onnx", "tflite"]
    again = edgepress("export", perceptron_task, "--to", "onnx,tflite", "--out", out)
    assert (again.code, again.complaint.startswith(f"{out} exists already")) == (2, True)


def test_a_family_is_run_by_its_best_member_and_why_is_told_on_stderr(exported):
    _, out = exported
    said = edgepress("run", out, "--golden", "--json")
    assert said.json["y"]["shape"] == [1, 4]
    assert said.err == "onnx: the first one, for nothing was timed\n"
    named = edgepress("run", out, "--golden", "--format", "tflite", "--json")
    assert np.allclose(named.json["y"]["values"], said.json["y"]["values"], atol=1e-5)
    assert "tflite:" not in named.err
    assert edgepress("run", out / "onnx", "--golden", "--json") == Said(0, said.out, "")


def test_a_family_is_reported_verified_and_inspected_member_by_member(exported):
    _, out = exported
    said = edgepress("report", out, "--runs", 20, "--json")
    assert [row["name"] for row in said.json["rows"]] == ["fam/onnx", "fam/tflite"]
    assert len({row["timing"]["run"] for row in said.json["rows"]}) == 1
    assert (said.json["ships"], said.json["title"]) == ("fam", "fam on host")
    checks = edgepress("verify", out, "--json")
    assert [(check["path"], check["passed"]) for check in checks.json["replays"]] == [
        (str(out / "onnx"), True), (str(out / "tflite"), True),
    ]  # fmt: skip
    assert list(edgepress("inspect", out, "--json").json["members"]) == ["onnx", "tflite"]
    told = edgepress("inspect", out).out
    assert all(words in told for words in ("formats", "onnx, tflite", "Gemm", "FULLY_CONNECTED"))


def test_the_budget_of_a_report_is_for_each_member_of_the_last_family(exported, artifact):
    said = edgepress("report", artifact, exported[1], "--on", "pi5", "--budget", "size<71.5kB", "--json")
    assert (said.code, said.json["misses"]) == (1, ["tflite: size 72 kB, budget < 71.5 kB"])


def test_a_family_whose_members_do_not_belong_together_is_refused(exported, artifact, tmp_path):
    out = Path(shutil.copytree(exported[1], tmp_path / "fam"))
    shutil.rmtree(out / "onnx")
    for command in (("run", out, "--golden"), ("report", out), ("verify", out), ("inspect", out)):
        said = edgepress(*command)
        assert (said.code, said.out) == (2, "")
        assert said.complaint == f"{out}/onnx is missing; copy the whole folder {out} again, or export it again"
    shutil.copytree(artifact, out / "onnx")
    assert "one member was exchanged" in edgepress("verify", out).complaint


def test_compress_to_several_formats_leaves_a_family_and_says_where_no_pass_paid(perceptron_task, tmp_path):
    four, nothing = tmp_path / "four.toml", tmp_path / "nothing.toml"
    four.write_text('[[pass]]\nname = "weight_only"\ninclude = ["0"]\n', encoding="utf-8")
    nothing.write_text('[[pass]]\nname = "weight_only"\nlayers = ["embedding"]\n', encoding="utf-8")
    given = ("compress", perceptron_task, "--to", "onnx,tflite", "--on", "pi5", "--out", tmp_path / "out")
    said = edgepress(*given, "--recipe", four)
    assert said.code == 0
    for words in ("ships: perceptron-four", "perceptron-four/onnx", "perceptron-four/tflite"):
        assert words in said.out, words
    assert f"written: {tmp_path}/out/perceptron-four, " in said.out
    assert edgepress("verify", tmp_path / "out" / "perceptron-four").code == 0
    said = edgepress(*given, "--recipe", nothing, "--force")
    assert said.out.splitlines()[-1] == (
        "no pass paid, so there is no family; the model as it came, in each format: "
        f"edgepress export {perceptron_task} --to onnx,tflite --out FOLDER"
    )
