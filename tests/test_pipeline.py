import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.data import Data, batches
from edgepress.compress.distill import Distill
from edgepress.compress.lowrank import LowRank
from edgepress.compress.pipeline import compress
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.recipe import Pass, Recipe
from edgepress.compress.source import Task, read_source
from edgepress.compress.train import Training
from edgepress.devices import find_device
from edgepress.devices.budget import parse_budget
from edgepress.devices.report import Report, from_json
from edgepress.runtime import load
from edgepress.runtime.artifact import check, describe, read_artifact
from edgepress.runtime.errors import UnknownName, UnsupportedError, UsageError

# Of the two linear layers the first holds nearly all the weights. 8 bits cost 0.01 points of R², 4 bits cost 0.5.
EIGHT = ("weight_only", WeightOnly(bits=8, include=("0",)))
FOUR = ("weight_only", WeightOnly(bits=4, include=("0",)))
TABLES = ("weight_only", WeightOnly(layers=("embedding",)))  # there are none

Compress = Callable[..., Report]


def recipe(name: str, *passes: tuple[str, Pass]) -> Recipe:
    return Recipe(name, "", passes)


@pytest.fixture(scope="module")
def task(perceptron_task: Path) -> Task:
    return read_source(str(perceptron_task))


@pytest.fixture(scope="module")
def run(task: Task) -> Compress:
    """`run(out, recipe, …)`: `compress` the perceptron for a Pi 5, which cannot be reached: only timing takes long."""

    def run(out: Path, recipe: Recipe, *, budget: str = "", on: str = "pi5", data: Data = task.data, **more) -> Report:
        limits = parse_budget(budget)
        return compress(task.model, recipe, data, to="onnx", on=find_device(on), budget=limits, out=out, **more)

    return run


@pytest.fixture(scope="module")
def story(run: Compress, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A run on this machine in which one pass costs too much, one pays, and one finds nothing to do."""
    out = tmp_path_factory.mktemp("story") / "out"
    passes = recipe("story", FOUR, EIGHT, TABLES)
    return run(out, passes, budget="size<50kB, latency<10s, drop<0.1%", on="host"), out


@pytest.fixture(scope="module")
def eight(run: Compress, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an undisturbed run of one pass left its files; to be copied, not changed."""
    out = tmp_path_factory.mktemp("eight") / "out"
    assert run(out, recipe("eight", EIGHT)).ships == "perceptron-eight"
    return out


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their contents."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def shipped(out: Path) -> str:
    """The hash of the model that a run of `eight` ships."""
    return describe(out / "perceptron-eight" / "model.onnx").sha256


def test_what_is_left_is_the_baseline_the_result_and_the_report(story):
    _, out = story
    assert sorted(path.name for path in out.iterdir()) == [
        "perceptron-fp32", "perceptron-story", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    for name in ("perceptron-fp32", "perceptron-story"):
        check(read_artifact(out / name))


def test_each_pass_is_kept_or_undone_and_the_report_says_why(story):
    report, _ = story
    base, four, eight = report.rows
    assert (base.name, base.kept, base.why) == ("perceptron-fp32", True, "")
    assert not four.kept
    assert "drop of r2 0.47 points, budget < 0.1 %" in four.why
    assert four.why.startswith("0.23x the bytes, ")
    assert eight.kept
    assert "undone" not in eight.why
    assert eight.why.startswith("0.35x the bytes, ")
    assert report.idle == ("weight_only",)
    assert report.fits
    assert report.ships == eight.name == "perceptron-story"


def test_a_pass_that_was_undone_leaves_nothing_in_what_ships(story):
    _, out = story
    (step,) = read_artifact(out / "perceptron-story").history
    assert step.name == "weight_only"
    assert step.settings["bits"] == 8
    assert read_artifact(out / "perceptron-fp32").history == ()


def test_the_file_that_ships_is_the_one_that_was_judged(story, task):
    report, out = story
    for row in (report.rows[0], report.rows[2]):
        artifact = read_artifact(out / row.name)
        assert row.path == artifact.path
        assert row.bytes == artifact.bytes
        assert row.sha256 == describe(artifact.model).sha256
        assert row.score == task.data.score(load(artifact.path))
        assert row.selftest.passed


def test_all_rows_are_timed_in_one_run_so_that_the_report_compares_like_with_like(story):
    report, _ = story
    assert len({row.timing.run for row in report.rows}) == 1
    assert all(row.alone is not None and row.alone.cold_start_ms > 0 for row in report.rows)


def test_the_report_on_disk_is_the_one_returned(story):
    report, out = story
    assert from_json((out / "report.json").read_text(encoding="utf-8")) == report
    page = (out / "report.md").read_text(encoding="utf-8")
    for words in ("perceptron-story", "undone", "drop of r2 0.47 points", "weight_only: nothing to do"):
        assert words in page, words


def test_the_model_that_was_handed_in_is_left_as_it_was(story, task, perceptron_task):
    fresh = read_source(str(perceptron_task)).model.module.state_dict()
    assert all(fresh[name].equal(tensor) for name, tensor in task.model.module.state_dict().items())
    assert task.model.history == ()


def test_where_no_pass_pays_the_model_ships_as_it_came_and_force_takes_the_old_result_away(run, eight, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(eight, out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    report = run(out, recipe("eight", FOUR), budget="drop<0.1%, size<1kB, latency<1ms", force=True)
    assert report.ships == "perceptron-fp32"
    assert not report.fits
    assert report.misses == (
        "size 71 kB, budget < 1 kB",
        "latency not measured on pi5, budget < 1 ms",
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "notes.txt",
        "perceptron-fp32",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert shipped(eight)


def test_passes_that_find_nothing_to_do_are_named_and_cost_no_export(run, tmp_path):
    told: list[str] = []
    report = run(tmp_path / "out", recipe("none", TABLES, ("weight_only", WeightOnly(layers=("embedding",), bits=8))),
                 tell=told.append)  # fmt: skip
    assert report.idle == ("weight_only", "weight_only")
    assert [row.name for row in report.rows] == ["perceptron-fp32"]
    assert report.ships == "perceptron-fp32"
    assert len([line for line in told if line.startswith("exporting")]) == 1


def test_a_second_pass_works_on_what_the_first_one_left(run, tmp_path):
    rest = ("dynamic_int8", DynamicInt8(smooth=0.0))
    report = run(tmp_path / "out", recipe("both", EIGHT, rest), budget="drop<50%")
    assert [row.kept for row in report.rows] == [True, True, True]
    first, second = read_artifact(tmp_path / "out" / "perceptron-both").history
    assert (first.name, second.name) == ("weight_only", "dynamic_int8")
    assert second.note == "1 Linear layers at int8 (8 bits used), per channel"
    assert report.rows[2].bytes < report.rows[1].bytes < report.rows[0].bytes


def test_without_a_score_passes_are_judged_by_their_size_and_a_budget_of_accuracy_is_missed(run, tmp_path):
    report = run(tmp_path / "out", recipe("blind", FOUR), data=Data())
    assert report.ships == "perceptron-blind"
    assert report.rows[1].why.endswith("no score")
    report = run(tmp_path / "out", recipe("none", TABLES), data=Data(), budget="drop<1%", force=True)
    assert report.misses == ("drop not judged: there is no score, budget < 1 %",)


@pytest.mark.parametrize("name", ["perceptron-fp32", "perceptron-eight"])
def test_an_artifact_that_is_there_is_refused_before_any_work(run, tmp_path, name):
    (tmp_path / name).mkdir()
    told: list[str] = []
    with pytest.raises(UsageError, match=rf"{name} exists already; name another place, or replace it with --force"):
        run(tmp_path, recipe("eight", EIGHT), tell=told.append)
    assert told == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["perceptron-fp32", "perceptron-eight"])
def test_a_folder_of_somebody_else_is_not_replaced_even_with_force(run, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="holds other files"):
        run(tmp_path, recipe("eight", EIGHT), force=True)
    assert tree(tmp_path) == {f"{name}/thesis.tex": b"years of work"}


@pytest.mark.parametrize("name", ["report.json", "report.md", "report.html"])
def test_a_report_of_somebody_else_is_not_overwritten(run, tmp_path, name):
    (tmp_path / name).write_text("# Quarterly report", encoding="utf-8")
    with pytest.raises(UsageError, match=rf"{name} is not a report of edgepress and would be lost"):
        run(tmp_path, recipe("eight", EIGHT), force=True)
    assert tree(tmp_path) == {name: b"# Quarterly report"}


def test_a_recipe_whose_result_would_take_the_place_of_the_baseline_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="a recipe named fp32 would take the place of the baseline"):
        run(tmp_path, recipe("fp32", EIGHT))


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ("gguf2", UnknownName, "unknown format 'gguf2'; known: gguf, onnx, tflite"),
        ("onnx,gguf2", UnknownName, "unknown format 'gguf2'; known: gguf, onnx, tflite"),
        ("onnx,onnx", UsageError, "the format onnx is named twice in 'onnx,onnx'; name each once"),
    ],
)
def test_a_format_that_cannot_be_right_is_refused_before_any_work(task, tmp_path, to, error, message):
    with pytest.raises(error, match=message):
        compress(task.model, recipe("eight", EIGHT), task.data, to=to, on=find_device("pi5"),
                 budget=parse_budget(""), out=tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_device_that_does_not_run_one_of_the_formats_refuses_it_before_any_work(task, tmp_path):
    device = replace(find_device("pi5"), formats=("onnx",))
    with pytest.raises(UnsupportedError, match="pi5 does not run the format 'tflite'; it runs: onnx"):
        compress(task.model, recipe("four", FOUR), task.data, to="onnx,tflite", on=device,
                 budget=parse_budget(""), out=tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


# Rank 8 of 64 costs two thirds of R²; of these a training brings nearly half back.
THIN = ("lowrank", LowRank(rank=8, include=("0",)))
SCHOOL = Training(epochs=30, rate=3e-3)


@pytest.fixture(scope="module")
def lessons(task: Task) -> Data:
    """The perceptron's data with 512 unlabelled samples to learn from."""
    drawn = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    return replace(task.data, training=batches({"input": drawn}, 32))


def test_a_pass_that_loses_too_much_is_judged_with_the_training_after_it(run, lessons, tmp_path):
    healed = recipe("healed", THIN, ("distill", Distill(training=SCHOOL)))
    report = run(tmp_path / "out", healed, data=lessons, budget="drop<50%")
    _, thin, taught = report.rows
    assert report.ships == "perceptron-healed"
    assert [row.kept for row in report.rows] == [True, True, True]
    assert "brought back by distill: drop of r2" in thin.why
    assert taught.score["r2"] > thin.score["r2"]
    history = read_artifact(tmp_path / "out" / "perceptron-healed").history
    assert [step.name for step in history] == ["lowrank", "distill"]


def test_what_no_training_brings_back_is_undone_with_it_and_the_rest_starts_from_before(run, lessons, tmp_path):
    lost = recipe("lost", THIN, ("distill", Distill(training=replace(SCHOOL, steps=1))), EIGHT)
    report = run(tmp_path / "out", lost, data=lessons, budget="drop<1%")
    assert [row.kept for row in report.rows] == [True, False, False, True]
    assert "undone: drop of r2" in report.rows[1].why
    assert [step.name for step in read_artifact(tmp_path / "out" / "perceptron-lost").history] == ["weight_only"]


def test_a_pass_that_no_training_follows_is_undone_at_once(run, lessons, tmp_path):
    after = recipe("after", ("distill", Distill(training=replace(SCHOOL, steps=1))), THIN, EIGHT)
    report = run(tmp_path / "out", after, data=lessons, budget="drop<1%")
    assert report.idle == ("distill",), "a model that is as it came has nothing to learn from itself"
    assert [row.kept for row in report.rows] == [True, False, True]
    assert [step.name for step in read_artifact(tmp_path / "out" / "perceptron-after").history] == ["weight_only"]


GOES_ON = "perceptron-fp32: exported already, by a run that was interrupted"


class Stop(BaseException):
    """As when the process is ended: nothing may catch it."""


def run_until_news(run: Compress, out: Path, passes: Recipe, heard: set[str]) -> Report | None:
    """A run that is ended when it tells what no run before it has told; its report where it comes to its end."""

    def tell(text: str) -> None:
        if text not in heard:
            heard.add(text)
            raise Stop

    try:
        return run(out, passes, tell=tell)
    except Stop:
        return None


def test_a_run_may_be_ended_at_any_point_and_ends_as_if_it_had_not_been(run, eight, tmp_path):
    heard: set[str] = set()
    while (report := run_until_news(run, tmp_path / "out", recipe("eight", EIGHT), heard)) is None:
        assert {path.name for path in tmp_path.glob("out/perceptron-*")} == set(), "only what is complete gets its name"
        if (tmp_path / "out" / "report.json").exists():
            raw = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
            assert not raw["fits"]
            assert raw["misses"] == ["not judged yet: the run is not finished"]
    assert GOES_ON in heard
    assert "1-weight_only: exported already, by a run that was interrupted" in heard
    assert report.ships == "perceptron-eight"
    assert shipped(tmp_path / "out") == shipped(eight)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in eight.iterdir())


@pytest.fixture(scope="module")
def ended(run: Compress, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of `eight` leaves that is ended when its baseline is exported and its pass begins."""
    out = tmp_path_factory.mktemp("ended") / "out"

    def tell(text: str) -> None:
        if text.startswith("pass"):
            raise Stop

    with pytest.raises(Stop):
        run(out, recipe("eight", EIGHT), tell=tell)
    return out


@pytest.fixture
def out(ended: Path, tmp_path: Path) -> Path:
    """A copy of `ended`."""
    return Path(shutil.copytree(ended, tmp_path / "out"))


def test_what_an_ended_run_has_made_is_used_only_for_what_it_was_made_of(run, out):
    told: list[str] = []
    run(out, recipe("eight", FOUR), tell=told.append)
    assert GOES_ON in told
    assert "exporting 1-weight_only to onnx" in told
    assert read_artifact(out / "perceptron-eight").history[0].settings["bits"] == 4


def test_a_damaged_file_of_an_ended_run_is_made_again(run, out, eight):
    (model,) = out.rglob("model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    told: list[str] = []
    run(out, recipe("eight", EIGHT), tell=told.append)
    assert "exporting perceptron-fp32 to onnx" in told
    assert shipped(out) == shipped(eight)
    assert tree(out / "perceptron-fp32") == tree(eight / "perceptron-fp32")


def test_another_run_into_the_same_folder_leaves_an_ended_one_alone(run, out, eight):
    run(out, recipe("none", TABLES))
    told: list[str] = []
    run(out, recipe("eight", EIGHT), tell=told.append, force=True)
    assert told[0] == GOES_ON
    assert shipped(out) == shipped(eight)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
