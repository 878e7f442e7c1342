import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress import show
from edgepress.compress.facts import artifact_facts
from edgepress.runtime.artifact import Artifact, File, read_artifact
from edgepress.runtime.errors import UnsupportedError, UsageError

BARE = Artifact(Path("x.onnx"), "onnx", (File("x.onnx", 1, "0" * 64),), bare=True)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def labelled(folder: Path, labels: object) -> Artifact:
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return Artifact(folder, "onnx", (File("labels.json", 1, "0" * 64, "asset"),))


def strict(text: str) -> object:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(name: str) -> float:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_an_output_is_shown_with_its_type_its_shape_and_its_first_numbers():
    outputs = {"y": np.array([[1.23456, -2.0]], np.float32), "ids": np.arange(12).reshape(3, 4)}
    assert show.outputs_text(outputs, BARE).splitlines() == [
        "y float32[1, 2]: 1.235, -2",
        "ids int64[3, 4]: 0, 1, 2, 3, 4, 5, 6, 7, … (12 in all)",
    ]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array(["yes", "no"], object), "y object[2]: yes, no"),
        (np.array([True, False]), "y bool[2]: True, False"),
        (np.array(1.5, np.float16), "y float16[]: 1.5"),
        (np.array([np.nan, np.inf], np.float32), "y float32[2]: nan, inf"),
        (np.zeros((0, 3), np.float32), "y float32[0, 3]: "),
    ],
)
def test_outputs_of_every_type_are_shown(array, words):
    assert show.outputs_text({"y": array}, BARE) == words


def test_logits_become_the_softmax_shares_of_the_best_labels(tmp_path):
    logits = np.array([[0.0, 2.0, 1.0, -9.0]], np.float32)
    shares = [math.exp(x) / sum(math.exp(y) for y in logits[0]) for x in logits[0]]
    expected = f"y: b {100 * shares[1]:.1f} %, c {100 * shares[2]:.1f} %, a {100 * shares[0]:.1f} %"
    assert show.outputs_text({"y": logits}, labelled(tmp_path, ["a", "b", "c", "d"])) == expected


def test_shares_that_add_up_already_are_shown_as_they_are(tmp_path):
    shares = np.array([[0.7, 0.2, 0.1]], np.float16)
    assert show.outputs_text({"y": shares}, labelled(tmp_path, ["a", "b", "c"])) == "y: a 70.0 %, b 20.0 %, c 10.0 %"


def test_integer_logits_do_not_wrap_around(tmp_path):
    text = show.outputs_text({"y": np.array([[0, 255]], np.uint8)}, labelled(tmp_path, ["a", "b"]))
    assert text == "y: b 100.0 %, a 0.0 %"


def test_each_row_of_a_batch_has_its_classes(tmp_path):
    text = show.outputs_text({"y": np.eye(2, dtype=np.float32)}, labelled(tmp_path, ["a", "b"]))
    assert [line.split()[1] for line in text.splitlines()] == ["a", "b"]


@pytest.mark.parametrize("labels", [["a"], {"0": "a", "1": "b"}])
def test_labels_that_do_not_fit_the_output_are_left_out(tmp_path, labels):
    text = show.outputs_text({"y": np.ones((1, 2), np.float32)}, labelled(tmp_path, labels))
    assert text == "y float32[1, 2]: 1, 1"


def test_json_holds_every_value_of_an_output_in_one_line():
    array = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 20)
    text = show.outputs_json({"y": array})
    assert "\n" not in text
    raw = json.loads(text)["y"]
    assert (raw["dtype"], raw["shape"]) == ("float32", [3, 20])
    assert np.array_equal(np.array(raw["values"], np.float32), array)


def test_json_is_strict_where_values_are_no_numbers():
    raw = strict(show.outputs_json({"y": np.array([np.nan, -np.inf, 1.0])}))
    assert raw == {"y": {"dtype": "float64", "shape": [3], "values": ["nan", "-inf", 1.0]}}


def test_outputs_are_saved_whole_and_come_back(tmp_path):
    outputs = {"y": np.ones((2, 3), np.float32), "z": np.arange(3)}
    show.save_outputs(outputs, tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as saved:
        assert {name: saved[name].tolist() for name in saved.files} == {n: a.tolist() for n, a in outputs.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_another_ending_than_npz_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"o\.txt: expected a name that ends with \.npz"):
        show.save_outputs({"y": np.ones(2)}, tmp_path / "o.txt")


def test_strings_are_not_saved_and_the_older_file_stays(tmp_path):
    show.save_outputs({"y": np.ones(2)}, tmp_path / "o.npz")
    before = (tmp_path / "o.npz").read_bytes()
    with pytest.raises(UnsupportedError, match="'y' holds strings"):
        show.save_outputs({"y": np.array(["a"], object)}, tmp_path / "o.npz")
    assert (tmp_path / "o.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_the_facts_of_an_artifact_are_shown_whole(artifact: Path, capsys):
    show.facts(artifact_facts(artifact))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    size = (artifact / "model.onnx").stat().st_size
    hashed = {file.name: file.sha256[:12] for file in read_artifact(artifact).files}
    for line in ("format onnx", f"size {size} B", "inputs x float32[batch, 3]", "outputs y float32[batch, 2]",
                 f"files model.onnx {size} B model sha256 {hashed['model.onnx']}…", "operators MatMul 1",
                 "history train: by hand", "source kind test, sha256 000000000000…"):  # fmt: skip
        assert line in lines, line


def test_a_model_without_history_is_as_it_came(make_artifact, capsys):
    show.facts(artifact_facts(make_artifact("plain").path))
    assert "as it came" in capsys.readouterr().out


def test_recipes_are_shown_with_their_passes_and_settings(capsys):
    passes = [{"name": "weight_only", "layers": ["embedding"], "bits": 4}, {"name": "static_int8"}]
    show.recipes({"mine": {"description": "For [bold]tables[/bold].", "pass": passes}})
    text = capsys.readouterr().out
    for word in (
        "mine",
        "For [bold]tables[/bold].",
        "weight_only",
        "layers = ['embedding']",
        "bits = 4",
        "static_int8",
    ):
        assert word in text, word


def test_devices_say_whether_they_can_be_timed(capsys):
    known = {"cpu": "A processor", "arch": "aarch64", "formats": ["onnx", "tflite"]}
    show.devices({"here": known | {"ram_mb": 8192, "link": "local"}, "there": known | {"ram_mb": None, "link": ""}})
    here, there = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if "aarch64" in line)
    assert here == "here A processor, aarch64 8 GiB onnx, tflite yes"
    assert there == "there A processor, aarch64 — onnx, tflite no address"


def test_what_is_missing_is_shown_with_the_line_that_installs_it(capsys):
    uses = {
        "run": {"ready": True, "versions": {"numpy": "2.4.6"}, "install": ""},
        "compress": {"ready": False, "versions": {"torch": None}, "install": "pip install 'edgepress[compress]'"},
    }
    show.doctor({"python": "3.12.1", "platform": "Linux", "executable": "/usr/bin/python3", "uses": uses})
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[:2] == ["Python 3.12.1 on Linux", "/usr/bin/python3"]
    assert "run yes numpy 2.4.6" in lines
    assert lines[-2:] == ["compress no torch missing", "pip install 'edgepress[compress]'"]


def test_no_line_is_wider_than_the_terminal(artifact: Path, capsys):
    show.facts(artifact_facts(artifact))
    show.recipes({"r": {"description": "word " * 40, "pass": [{"name": "weight_only", "include": ["*.layer.*"] * 9}]}})
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80
