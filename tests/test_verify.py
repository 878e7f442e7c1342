"""verify: hashes, golden samples, the matrix with the source's score, tokenizers, and the layer where files part."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, normalizers

from edgepress.compress.quantize import DynamicInt8
from edgepress.compress.source import Task
from edgepress.compress.verify import verify
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.runtime import read_artifact
from edgepress.runtime.artifact import MANIFEST, describe
from edgepress.runtime.errors import UsageError

from . import faults
from .chromium import needs_chromium
from .commands import edgepress
from .tiny_encoders import read_tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def files(task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The encoder as ONNX and TFLite, in float and with integers."""
    folder = tmp_path_factory.mktemp("files")
    small = DynamicInt8(reduce_range=find_device("host").reduce_range)(task.model, task.data)
    made = {f"{to}-fp32": export(task.model, to, folder / f"{to}-fp32").path for to in ("onnx", "tflite")}
    return made | {f"{to}-int8": export(small, to, folder / f"{to}-int8").path for to in ("onnx", "tflite")}


def test_all_formats_and_precisions_of_a_model_hold_and_are_judged(task: Task, files: dict[str, Path]) -> None:
    told: list[str] = []
    found = verify(list(files.values()), task, told.append)
    assert found.passed
    assert found.parity is not None
    assert [side.name for side in found.parity.sides] == ["source", *files]
    assert [side.precision for side in found.parity.sides] == ["float32", "float32", "float32", "int8", "int8"]
    assert len(found.parity.pairs) == 10
    pairs = {(pair.a, pair.b): pair for pair in found.parity.pairs}
    assert pairs["source", "onnx-fp32"].cosine > 0.999999
    assert pairs["onnx-fp32", "tflite-int8"].cosine < pairs["onnx-fp32", "tflite-fp32"].cosine
    kinds = found.parity.samples
    assert {"golden", "data", "batch of 1", "shortest sequence", "longest sequence", "empty text", "Chinese"} <= set(
        kinds
    )
    scores = {side.name: side.score["cosine"] for side in found.parity.sides}
    assert scores["source"] == pytest.approx(1)
    assert scores["onnx-int8"] < scores["onnx-fp32"]
    assert "parity: running tflite-int8" in told
    assert [(replay.path.name, replay.provider) for replay in found.replays] == [(name, "cpu") for name in files]


def test_golden_samples_are_enough_where_there_is_no_source(files: dict[str, Path]) -> None:
    found = verify([files["onnx-fp32"], files["tflite-fp32"]])
    assert found.passed
    assert found.parity is not None
    assert len(found.parity.pairs) == 1
    assert "data" not in found.parity.samples


def test_of_bare_files_of_one_model_invented_inputs_are_all_there_is(files: dict[str, Path], tmp_path: Path) -> None:
    bare = [Path(shutil.copy(read_artifact(files[name]).model, tmp_path / name)) for name in ("onnx-fp32", "onnx-int8")]
    bare = [path.rename(path.with_suffix(".onnx")) for path in bare]
    found = verify(bare)
    assert found.parity is not None
    assert found.parity.samples["invented"] == 1
    assert [side.precision for side in found.parity.sides] == ["float32", "int8"]


def test_one_file_alone_is_replayed_and_with_its_source_held_against_it(task: Task, files: dict[str, Path]) -> None:
    assert verify([files["onnx-fp32"]]).parity is None
    found = verify([files["onnx-fp32"]], task, scored=False)
    assert found.parity is not None
    assert [(pair.a, pair.b) for pair in found.parity.pairs] == [("source", "onnx-fp32")]
    assert not found.parity.sides[1].score


def test_a_wrong_tokenizer_is_told_with_the_text_and_the_ids(
    task: Task, files: dict[str, Path], tmp_path: Path
) -> None:
    wrong = with_tokenizer(files["onnx-fp32"], tmp_path / "wrong", normalizers.Replace("w1", "w2"))
    found = verify([files["onnx-fp32"], wrong], task)
    assert not found.passed
    assert found.parity is not None
    assert found.parity.passed  # the files themselves compute the same
    (difference,) = found.tokenizers
    assert (difference.a, difference.b) == ("source", "wrong")
    said = edgepress("verify", files["onnx-fp32"], wrong)
    assert said.code == 1
    assert "the tokenizers of onnx-fp32 and wrong differ on" in " ".join(said.out.split())


def with_tokenizer(source: Path, target: Path, normalizer: normalizers.Normalizer) -> Path:
    """A copy of an artifact whose tokenizer changes its texts first."""
    shutil.copytree(source, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    tokenizer.normalizer = normalizer
    replaced(target, "tokenizer.json", tokenizer.to_str())
    return target


def test_the_layer_where_a_faulty_file_parts_is_named_on_the_command_line(digits_task: Path, tmp_path: Path) -> None:
    assert edgepress("export", digits_task, "--out", tmp_path / "good").code == 0
    good = read_artifact(tmp_path / "good").model
    faulty = faults.planted(good, tmp_path / "faulty.onnx", faults.channels_swapped(2))
    said = edgepress("verify", tmp_path / "good", faulty, "--source", digits_task, "--out", tmp_path / "parity")
    assert said.code == 1
    words = " ".join(said.out.split())
    assert "good and faulty part: mean cosine" in words
    assert "first at stacks.0.second.0 + stacks.0.second.1" in words
    assert sorted(path.name for path in (tmp_path / "parity").iterdir()) == [
        "parity.json", "parity.md", "parity.png", "parity.svg",
    ]  # fmt: skip
    raw = edgepress("verify", tmp_path / "good", faulty, "--source", digits_task, "--json").json
    assert raw["passed"] is False
    assert [entry["layer"]["file"] for entry in raw["parted"]] == ["faulty", "faulty"]
    assert {entry["b"] for entry in raw["parted"]} == {"faulty"}


def test_labels_that_are_not_the_same_are_told(artifact: Path, tmp_path: Path) -> None:
    other = shutil.copytree(artifact, tmp_path / "other")
    replaced(other, "labels.json", '["b", "a"]')
    found = verify([artifact, other])
    assert not found.passed
    assert found.assets == ("labels.json is not the same in linear-fp32, other",)
    assert verify([artifact, shutil.copytree(artifact, tmp_path / "same")]).passed


def replaced(folder: Path, name: str, content: str) -> None:
    """Put another content into an asset, and its hash into the manifest."""
    (folder / name).write_text(content, encoding="utf-8")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    changed = vars(describe(folder / name, "asset"))
    manifest["files"] = [changed if file["name"] == name else file for file in manifest["files"]]
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_files_of_other_models_are_checked_and_not_compared(
    artifact: Path, files: dict[str, Path], make_artifact
) -> None:
    found = verify([artifact, files["onnx-fp32"]])
    assert found.passed
    assert found.parity is None
    assert found.notes[0].startswith("not compared with each other: one has x float32[batch, 3], another")
    (note,) = verify([artifact, make_artifact("other").path]).notes
    assert "another x float32[batch, 64]" in note


def test_samples_longer_than_a_file_takes_are_left_out_and_counted(task: Task, tmp_path: Path) -> None:
    short = export(replace(task.model, lengths={"sequence": (8,)}), "tflite", tmp_path / "short").path
    found = verify([short], task)
    assert found.passed
    note, unscored = found.notes
    assert unscored == "no score of short: it does not take all that is judged"
    assert note.endswith("samples are longer than a file takes (sequence 8), and were left out")
    assert int(note.split()[0]) > 0


def test_where_no_recorded_sample_is_short_enough_for_all_one_is_invented(task: Task, tmp_path: Path) -> None:
    short = export(replace(task.model, lengths={"sequence": (8,)}), "tflite", tmp_path / "short")
    bare = Path(shutil.copy(short.model, tmp_path / "bare.tflite"))
    twice = {name: torch.cat([tensor, tensor], 1) for name, tensor in task.model.example.items()}
    long = export(replace(task.model, example=twice), "onnx", tmp_path / "long").path
    found = verify([bare, long])
    assert found.parity is not None
    assert found.parity.samples["invented"] == 1
    assert found.notes == ("2 samples are longer than a file takes (sequence 8), and were left out",)


def test_a_source_with_other_inputs_is_refused(task: Task, artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"the source takes input_ids, attention_mask, .* takes x; expected the model"):
        verify([artifact], task)


def test_data_goes_with_a_source(files: dict[str, Path], tmp_path: Path) -> None:
    said = edgepress("verify", files["onnx-fp32"], "--data", tmp_path / "x.txt")
    assert said.code == 2
    assert said.complaint.startswith("--data goes with --source, whose data it is; name both or none.")


@needs_chromium
def test_a_web_build_is_computed_in_a_browser(task: Task, files: dict[str, Path], tmp_path: Path) -> None:
    site = export(task.model, "web", tmp_path / "site").path
    found = verify([files["onnx-fp32"], site])
    assert found.passed
    assert found.parity is not None
    assert [side.name for side in found.parity.sides] == ["onnx-fp32", "site (browser)"]
    here, there = found.replays
    assert here.provider == "cpu"
    assert " in Chromium " in there.provider
    assert found.parity.pairs[0].difference <= there.seen.tolerance
    assert found.notes == ()


def test_without_a_browser_a_web_build_is_opened_here_and_that_is_said(
    task: Task, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CHROMIUM", "/no/such/browser")
    site = export(task.model, "web", tmp_path / "site").path
    found = verify([files["onnx-fp32"], site])
    assert found.passed
    assert found.parity is not None
    assert [side.name for side in found.parity.sides] == ["onnx-fp32", "site"]
    (note,) = found.notes
    assert note.startswith(f"{site} was opened by this machine's ONNX Runtime, not in a browser: EDGEPRESS_CHROMIUM")
