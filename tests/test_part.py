"""A pair that breaks its limits is brought into one shape and its layer is named, or the reason why none is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.part import part, shared_inputs
from edgepress.compress.source import Task
from edgepress.export.bisect import File
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.parity import Pair, Sample
from edgepress.export.precision import SAME
from edgepress.runtime import load

from . import faults
from .quantize_check import random, seeded


class Words(nn.Module):
    """A table, a layer, a mean over what the mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask[..., None].float()
        return (self.layer(self.table(ids)) * kept).sum(1) / kept.sum(1)


@pytest.fixture(scope="module")
def model() -> Model:
    example = {"ids": torch.arange(12).reshape(2, 6), "mask": torch.ones(2, 6, dtype=torch.int64)}
    axes = {name: {0: "batch", 1: "sequence"} for name in example}
    return Model("words", seeded(Words()).eval(), example, ("y",), axes, lengths={"sequence": (8,)})


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("part")
    made = {to: export(model, to, folder / to).path for to in ("onnx", "tflite")}

    def transposed(graph) -> None:
        name = faults.nodes(graph, "MatMul")[0].input[1] if faults.nodes(graph, "MatMul") else ""
        faults.change(graph, name or faults.nodes(graph, "Gemm")[0].input[1], lambda weight: weight.T)

    made["faulty"] = faults.planted(load(made["onnx"]).artifact.model, folder / "faulty.onnx", transposed)
    return made


SAMPLE = Sample("data", {"ids": np.array([[3, 4, 5]]), "mask": np.array([[1, 1, 1]])})


def pair(a: str, b: str) -> Pair:
    return Pair(a, b, 0.5, 0.5, 1.0, None, None, 0, SAME["float32"], ("mean cosine 0.5, below 0.99999",))


def parted(a: str, b: str, files: dict[str, Path], source: Task | None):
    models = {name: load(path, verify=False) for name, path in files.items()}
    (found,) = part([pair(a, b)], models, [SAMPLE], source, lambda text: None)
    return found


@pytest.mark.parametrize("good", ["onnx", "tflite", "source"])
def test_the_layer_is_named_whatever_the_good_file_is(good: str, model: Model, files: dict[str, Path]) -> None:
    found = parted(good, "faulty", files, Task(model, Data()))
    assert found.layer is not None
    assert found.layer.modules == ("layer",)
    assert found.layer.file == "faulty"


def test_where_no_layer_can_be_named_it_says_why(model: Model, files: dict[str, Path]) -> None:
    assert parted("onnx", "faulty", files, None).reason.startswith("name the model with --source")
    assert parted("onnx", "tflite", files, Task(model, Data())).reason.startswith("no layer stands out")

    class Untraceable(Words):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return super().forward(ids, mask) * (2 if float(ids.float().mean()) > 1e9 else 1)

    other = Model("words", Untraceable().eval(), model.example, ("y",), model.axes)
    assert "cannot be traced" in parted("onnx", "faulty", files, Task(other, Data())).reason


def test_one_sample_is_padded_or_cut_to_the_shapes_that_a_file_has_fixed(files: dict[str, Path], model: Model) -> None:
    fixed = File("tflite", load(files["tflite"]).artifact.model, "tflite", "float32")
    free = File("onnx", load(files["onnx"]).artifact.model, "onnx", "float32")
    found = shared_inputs(model.example, SAMPLE.inputs, [free, fixed])
    assert found is not None
    assert list(found) == ["ids", "mask"]
    assert found["ids"].tolist() == [[3, 4, 5, 0, 0, 0, 0, 0]]
    long = {name: np.tile(array, (2, 4)) for name, array in SAMPLE.inputs.items()}
    found = shared_inputs(model.example, long, [fixed])
    assert found is not None
    assert found["mask"].shape == (1, 8)
    found = shared_inputs(model.example, long, [free])
    assert found is not None
    assert found["ids"].shape == (1, 12)


def test_files_with_other_fixed_shapes_have_no_inputs_in_common(
    model: Model, files: dict[str, Path], tmp_path: Path
) -> None:
    other = export(replace(model, lengths={"sequence": (16,)}), "tflite", tmp_path / "other").model
    both = [
        File("a", load(files["tflite"]).artifact.model, "tflite", "float32"),
        File("b", other, "tflite", "float32"),
    ]
    assert shared_inputs(model.example, SAMPLE.inputs, both) is None


def test_random_inputs_of_the_right_shape_are_left_as_they_are(model: Model) -> None:
    x = {"ids": SAMPLE.inputs["ids"], "mask": SAMPLE.inputs["mask"], "extra": random(1, 2).numpy()}
    found = shared_inputs(model.example, x, [File("source", None, "", "float32")])
    assert found is not None
    assert list(found) == ["ids", "mask"]
    assert np.array_equal(found["ids"], x["ids"])
