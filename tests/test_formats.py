"""An artifact is complete, opens, and says what it was made of; what cannot be made leaves nothing behind."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.quantize import WeightOnly
from edgepress.export.formats import EXPORTERS, TOLERANCE, export
from edgepress.export.model import Model
from edgepress.runtime import load
from edgepress.runtime.artifact import Artifact, Port, Step, read_artifact
from edgepress.runtime.errors import (
    EdgepressError,
    EngineError,
    ModelError,
    UnknownName,
    UnsupportedError,
    UsageError,
)
from edgepress.runtime.golden import read_golden

LABELS = json.dumps(["no", "yes"]).encode()


class Does(nn.Module):
    """A module that does what the function says."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def model(function: Callable[[Tensor], Tensor] = torch.neg, assets: Mapping[str, bytes] | None = None) -> Model:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    return Model("net", Does(function), {"x": x}, ("y",), {"x": {0: "batch"}}, assets or {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A quantized classifier with assets, a source and a history."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 2))
        example = torch.randn(3, 64)
    made = Model(
        "classifier", network, {"input": example}, ("logits",), {"input": {0: "batch"}},
        assets={"labels.json": LABELS, "tokenizer.json": b"{}"}, source={"kind": "test", "sha256": "0" * 64},
        history=(Step("train", {"epochs": 3}),),
    )  # fmt: skip
    made = WeightOnly(bits=8, block=32)(made, Data())
    return export(made, "onnx", tmp_path_factory.mktemp("exported") / "classifier-int8")


def test_an_artifact_is_a_folder_with_all_that_the_model_needs(exported: Artifact):
    names = {"model.onnx", "artifact.json", "golden.npz", "labels.json", "tokenizer.json"}
    assert {path.name for path in exported.path.iterdir()} == names
    assert [path.name for path in exported.path.parent.iterdir()] == ["classifier-int8"]
    roles = {file.name: file.role for file in exported.files}
    assert roles == {"model.onnx": "model", "golden.npz": "golden", "labels.json": "asset", "tokenizer.json": "asset"}
    labels = exported.asset("labels.json")
    assert labels is not None
    assert labels.read_bytes() == LABELS


def test_the_manifest_says_what_it_is_and_what_it_was_made_of(exported: Artifact):
    raw = json.loads((exported.path / "artifact.json").read_text(encoding="utf-8"))
    assert raw["format"] == "onnx"
    assert raw["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 64]}]
    assert raw["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 2]}]
    assert raw["source"] == {"kind": "test", "sha256": "0" * 64}
    assert [step["name"] for step in raw["history"]] == ["train", "weight_only"]
    assert raw["history"][0]["settings"] == {"epochs": 3}
    assert raw["history"][1]["settings"].items() >= {"bits": 8, "block": 32, "symmetric": False}.items()
    assert raw["tolerance"] == TOLERANCE["quantized"]
    for tool in ("edgepress", "numpy", "onnx", "onnxruntime", "torch"):
        assert raw["tools"][tool] == importlib.metadata.version(tool)
    for file in raw["files"]:
        content = (exported.path / file["name"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert exported == read_artifact(exported.path)


def test_golden_samples_are_the_example_alone_and_whole_with_what_the_file_gave(exported: Artifact):
    alone, whole = read_golden(exported.path / "golden.npz")
    assert alone.inputs["input"].shape == (1, 64)
    assert np.array_equal(whole.inputs["input"][:1], alone.inputs["input"])
    session = load(exported.path)
    for case in (alone, whole):
        assert np.array_equal(session(**case.inputs)["logits"], case.outputs["logits"])
    assert session.selftest().passed
    assert session.selftest().cases == 2


def test_a_model_without_a_free_batch_runs_as_it_is(tmp_path: Path):
    fixed = Model("net", nn.ReLU(), {"input": torch.ones(3, 2)}, ("y",), {})
    artifact = export(fixed, "onnx", tmp_path / "net")
    assert artifact.inputs == (Port("input", "float32", (3, 2)),)
    assert artifact.tolerance == TOLERANCE["float32"]
    assert {case.inputs["input"].shape for case in read_golden(artifact.path / "golden.npz")} == {(3, 2)}


def refused(made: Model, folder: Path, kind: type[EdgepressError]) -> str:
    """The one line with which it is refused; nothing is left in the folder."""
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(kind) as caught:
        export(made, "onnx", folder / "net")
    assert {path.name for path in folder.iterdir()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_format_is_told_before_anything_is_written(tmp_path: Path):
    with pytest.raises(UnknownName, match="unknown format 'onxx'; known: gguf, onnx, tflite"):
        export(model(), "onxx", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "artifact.json"])
def test_an_asset_does_not_take_the_place_of_a_file_of_the_artifact(tmp_path: Path, name: str):
    said = refused(model(assets={name: b""}), tmp_path, ModelError)
    assert said == f"net has the asset {name!r}, a name that the artifact needs; rename it"


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path):
    said = refused(model(lambda x: x / 0), tmp_path, EngineError)
    assert said == "the exported file gives NaN or infinity at output 'y' for the model's example"


def test_a_model_that_gives_other_numbers_each_time_is_refused(tmp_path: Path):
    said = refused(model(lambda x: x + torch.rand_like(x)), tmp_path, UnsupportedError)
    assert said == "net gives other numbers at 'y' each time; make it deterministic"


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (lambda x: x @ x, ModelError, "net does not run on its own example"),
        (lambda x: x + torch.ones(2, 3), UnsupportedError, "is fixed to 2 by the model's own code"),
        (torch.linalg.svdvals, UnsupportedError, "net cannot be said in ONNX"),
        (lambda x: x.bfloat16(), EngineError, "has the port 'y' of type tensor(bfloat16)"),
    ],
)
def test_a_model_that_cannot_be_expressed_leaves_nothing(
    tmp_path: Path, function: Callable[[Tensor], Tensor], kind: type[EdgepressError], said: str
):
    assert said in refused(model(function), tmp_path, kind)


def half_way(made: Model, folder: Path) -> Path:
    """An exporter that writes half of its file and then fails."""
    (folder / "model.onnx").write_bytes(b"half")
    raise KeyboardInterrupt


def test_an_exporter_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(EXPORTERS, "half", half_way)
    with pytest.raises(KeyboardInterrupt):
        export(model(), "half", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_is_there_is_refused_and_stays(exported: Artifact):
    content = (exported.path / "artifact.json").read_bytes()
    with pytest.raises(UsageError, match="exists already; name another place, or replace it with --force"):
        export(model(), "onnx", exported.path)
    assert (exported.path / "artifact.json").read_bytes() == content
    assert load(exported.path).selftest().passed


def test_with_force_the_old_artifact_stays_until_the_new_one_is_complete(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(EXPORTERS, "half", half_way)
    with pytest.raises(KeyboardInterrupt):
        export(model(), "half", artifact, force=True)
    assert load(artifact).selftest().passed
    with pytest.raises(EngineError):
        export(model(lambda x: x / 0), "onnx", artifact, force=True)
    assert load(artifact).selftest().passed
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]

    made = export(model(), "onnx", artifact, force=True)
    assert load(artifact).selftest().passed
    assert {path.name for path in artifact.iterdir()} == {"model.onnx", "artifact.json", "golden.npz"}
    assert made.outputs == (Port("y", "float32", ("batch", 3)),)
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UsageError, match=r"holds other files and no artifact\.json"):
        export(model(), "onnx", tmp_path / "net", force=True)
    assert (tmp_path / "net" / "thesis.txt").is_file()


def test_the_example_is_not_changed_by_a_module_that_writes_into_it(tmp_path: Path):
    made = model(lambda x: x.add_(1))
    artifact = export(made, "onnx", tmp_path / "net")
    whole = read_golden(artifact.path / "golden.npz")[1]
    assert np.array_equal(whole.inputs["x"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(whole.outputs["y"], whole.inputs["x"] + 1)
    assert torch.equal(made.example["x"].detach(), torch.arange(6.0).reshape(2, 3))
