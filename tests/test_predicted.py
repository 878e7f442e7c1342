import json
from dataclasses import replace

import pytest

from edgepress.compress.predict import Node, Prediction
from edgepress.compress.predicted import predicted, predicted_model, read_probe, render, sentences, to_json
from edgepress.runtime.errors import DataError
from edgepress.runtime.probe import to_json as probe_to_json

from .test_predict import PROBE

FOUND = Prediction(
    "digits", "a processor", 1,
    (Node("c", "Conv", "conv", "float32", 9000, {"as is": 0.3, "int8": 0.1}),
     Node("m", "MatMul", "matmul", "float32", 640, {"as is": 0.1, "int8": 0.05, "int4": 0.11})),
    {"as is": 0.41, "int8": 0.16, "int4": 0.42},
)  # fmt: skip


def test_a_prediction_says_whether_int8_and_int4_are_faster_there():
    assert list(sentences(FOUND)) == [
        "digits on a processor, 1 thread: 0.41 ms predicted.",
        "int8 would be 2.56x as fast there (0.16 ms).",
        "int4 would be as fast there, within what a prediction can tell (0.42 ms).",
    ]
    slower = replace(FOUND, threads=None, ms={"as is": 0.4, "int8": 0.8, "int4": 0.4}, nodes=FOUND.nodes[:1])
    assert list(sentences(slower)) == [
        "digits on a processor, the engine's threads: 0.4 ms predicted.",
        "int8 would be 2.00x slower there (0.8 ms).",
        "int4: no product of float32 with constant weights would change.",
    ]


def test_what_was_measured_here_tells_the_error():
    measured = replace(FOUND, measured=0.5)
    assert measured.error == pytest.approx(-0.18)
    assert next(sentences(measured)) == (
        "digits on a processor, 1 thread: 0.41 ms predicted; measured here: 0.5 ms (the median of the quietest round), "
        "so the prediction is -18 % off."
    )
    assert json.loads(to_json(measured))["error"] == pytest.approx(-0.18)
    assert json.loads(to_json(FOUND))["error"] is None


def test_it_is_rendered_by_operator(capsys):
    render(FOUND)
    printed = capsys.readouterr().out
    assert "Conv" in printed
    assert "0.11 ms" in printed


def test_an_artifact_is_measured_only_on_the_machine_of_the_probe(linear):
    told: list[str] = []
    assert (predicted(linear, PROBE, told.append).measured or 0) > 0
    other = replace(PROBE, machine=replace(PROBE.machine, cpu="another"))
    assert predicted(linear, other, told.append).measured is None
    assert told == [f"predicting {linear}", f"measuring {linear} here", f"predicting {linear}"]


def test_a_model_is_predicted_before_anything_is_done_to_it(perceptron_task):
    other = replace(PROBE, machine=replace(PROBE.machine, cpu="another"))
    found = predicted_model(str(perceptron_task), None, other, lambda text: None)
    assert found.name == "perceptron"
    assert found.ms["int8"] < found.ms["as is"]


def test_a_probe_is_read_from_its_file(tmp_path):
    (tmp_path / "probe.json").write_text(probe_to_json(PROBE), encoding="utf-8")
    assert read_probe(tmp_path / "probe.json") == PROBE
    with pytest.raises(
        DataError, match=r"nowhere\.json cannot be read .*; make it: edgepress devices probe --out FILE"
    ):
        read_probe(tmp_path / "nowhere.json")
