"""explain: the worst layers first, scored from their files, timed alone, and told in a sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.explain import Explanation, explain, summary
from edgepress.compress.quantize import WeightOnly
from edgepress.compress.sensitivity import Cost
from edgepress.compress.source import Task, read_source
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.runtime import load
from edgepress.runtime.errors import UnsupportedError, UsageError

from .commands import edgepress

HOST, PI = find_device("host"), find_device("pi5")


@pytest.fixture(scope="module")
def task(perceptron_task: Path) -> Task:
    return read_source(str(perceptron_task))


def test_the_worst_come_first_and_are_scored_from_their_exported_files(task: Task, tmp_path: Path) -> None:
    found = explain(task.model, task.data, ["int8", "int4"], PI, scored=2)
    assert (found.model, found.device, found.output) == ("perceptron", "pi5", "y")
    assert sorted((c.layer, c.option) for c in found.costs) == [
        ("0", "int4"),
        ("0", "int8"),
        ("2", "int4"),
        ("2", "int8"),
    ]
    assert [c.drop for c in found.costs] == sorted((c.drop for c in found.costs), reverse=True)
    assert [c.score is None for c in found.costs] == [False, False, True, True]
    assert found.score == {"r2": pytest.approx(1, abs=1e-6)}
    worst = found.costs[0]
    assert worst.option == "int4"
    alone = WeightOnly(include=(worst.layer,))(task.model, task.data)
    assert task.data.score is not None
    assert worst.score == task.data.score(load(export(alone, "onnx", tmp_path / "alone").path, threads=1))["r2"]
    assert all(c.before_ms is None and c.after_ms is None for c in found.costs)  # a Pi 5 is not reached from here


def test_each_layer_is_timed_on_a_device_that_answers(task: Task) -> None:
    told: list[str] = []
    data = replace(task.data, score=None, tell=told.append)
    found = explain(task.model, data, ["int8"], HOST, layers=["0"])
    (cost,) = found.costs
    assert cost.before_ms is not None
    assert cost.after_ms is not None
    assert (cost.before_ms > 0, cost.after_ms > 0, cost.score, found.score) == (True, True, None, {})
    assert told[-1] == "timing distinct layer 1 of 1"


def test_without_a_score_it_is_judged_on_the_calibration_data(task: Task) -> None:
    judged = explain(task.model, task.data, ["int4"], PI, scored=0)
    other = explain(task.model, replace(task.data, score=None), ["int4"], PI)
    assert judged.score == other.score == {}
    assert [c.layer for c in judged.costs] == [c.layer for c in other.costs]
    assert np.allclose([c.drop for c in judged.costs], [c.drop for c in other.costs], rtol=0.5)


def cost(layer: str, drop: float, saved: int = 1000, option: str = "int8") -> Cost:
    return Cost(layer, "Linear 8 -> 8", 64, 256, option, drop, None, saved)


def sentences(*costs: Cost) -> list[str]:
    return summary(Explanation("net", "host", "y", {}, costs))


def test_a_sentence_names_the_fewest_layers_that_half_is_lost_in() -> None:
    assert sentences(cost("fc", 0.6), cost("conv1", 0.3), cost("conv2", 0.1)) == [
        "int8 loses most in fc (60% of the summed drops): leave it as it is, which gives up 1 kB of the 3 kB saved."
    ]
    even = [cost(f"l{i}", 0.1) for i in range(10)]
    assert sentences(*even) == [
        "int8 loses most in l0, l1 and l2 (30% of the summed drops): leave these as they are, "
        "which gives up 3 kB of the 10 kB saved."
    ]
    assert (
        "loses most in a and b (60%"
        in sentences(*(cost(n, d) for n, d in zip("abcd", (0.3, 0.3, 0.2, 0.2), strict=True)))[0]
    )


def test_an_option_that_costs_next_to_nothing_is_told_as_that_and_comes_last() -> None:
    found = sentences(cost("fc", 0.2, option="int4"), cost("fc", 2e-5), cost("conv1", -1e-8))
    assert found[0].startswith("int4 loses most in fc (100% ")
    assert found[1] == "int8 costs next to nothing in any layer; most in fc, a drop of 0.000020."


def test_options_that_change_nothing_are_told(task: Task) -> None:
    with pytest.raises(UnsupportedError, match=r"rank=0\.01: no layer of perceptron would change; name other options"):
        explain(task.model, task.data, ["rank=0.01"], PI, layers=["2"])


def test_an_option_that_is_named_twice_is_refused(task: Task) -> None:
    with pytest.raises(UsageError, match="the options are int8, int8; expected each once"):
        explain(task.model, task.data, ["int8", "int8"], PI)


def test_the_command_prints_the_sentence_and_the_table_and_leaves_the_files(
    perceptron_task: Path, tmp_path: Path
) -> None:
    said = edgepress("explain", perceptron_task, "--option", "int4", "--on", "pi5", "--out", tmp_path / "why")
    assert said.code == 0
    assert said.out.startswith("int4 costs ") or said.out.startswith("int4 loses ")
    assert "Linear 64 -> 256" in said.out
    assert said.err.splitlines()[:2] == ["reading the model", "running the model as it is"]
    assert (tmp_path / "why" / "explain.png").is_file()
    again = edgepress("explain", perceptron_task, "--option", "int4", "--on", "pi5", "--json", "--scored", "0")
    assert (again.code, again.err, again.json["score"]) == (0, "", {})
    assert [cost["layer"] for cost in again.json["costs"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--option", "int9"], "unknown option 'int9'; known: cut, int4, int8, packed, rank, static"),
        (["--layers", "fc*"], "the pattern 'fc*' fits no explained layer; names look like 0, 2"),
        (["--on", "pi9"], "unknown device 'pi9'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(arguments: list[str], words: str, perceptron_task: Path) -> None:
    said = edgepress("explain", perceptron_task, *arguments)
    assert said.code == 2
    assert said.out == ""
    assert words in said.complaint


def test_an_onnx_file_without_data_has_nothing_to_compare_on(linear: Path) -> None:
    said = edgepress("explain", linear, "--option", "int4")
    assert said.code == 2
    assert "there are no samples to compare on; bring --data" in said.complaint
