"""float16 weights: two bytes each in either file, the numbers of the weights rounded, and nothing else changed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.float16 import Float16
from edgepress.export import onnx as onnx_exporter
from edgepress.export import tflite
from edgepress.export.model import Model
from edgepress.export.tflite_file import read_file
from edgepress.runtime import litert, ort
from edgepress.runtime.errors import ModelError, UsageError

from .quantize_check import chain, largest_difference, model_of, random, run, run_file, seeded


class Reader(nn.Module):
    """A table, a normalization that the converter would multiply into what follows, and a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.layer = nn.Embedding(60, 16), nn.LayerNorm(16), nn.Linear(16, 24)
        self.conv, self.batch = nn.Conv1d(24, 8, 3, padding=1), nn.BatchNorm1d(8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layer(self.norm(self.table(ids)))
        return torch.relu(self.batch(self.conv(x.transpose(1, 2)))).mean(2)


@pytest.fixture(scope="module")
def reader() -> Model:
    return Model("net", seeded(Reader()).eval(), {"ids": torch.arange(12).reshape(2, 6)}, ("y",), {"ids": {0: "batch"}})


@pytest.fixture(scope="module")
def halved(reader: Model) -> Model:
    return Float16()(reader, Data())


def test_the_model_computes_with_rounded_weights(reader: Model, halved: Model):
    (step,) = halved.history
    assert (step.name, step.settings, step.note) == ("float16", {"least": 256}, "3 weights at float16")
    x = random(4, 32)
    layer = nn.Linear(32, 16)
    (expected,) = (x @ layer.weight.half().float().T + layer.bias,)
    made = Float16()(model_of(chain(layer), x=x), Data())
    assert largest_difference(run(made, x=x), expected) < 1e-6
    ids = reader.example["ids"]
    assert largest_difference(run(halved, ids=ids), run(reader, ids=ids)) < 2e-3


def test_both_files_hold_the_same_halves_and_compute_alike(halved: Model, tmp_path: Path):
    ids = halved.example["ids"].numpy()
    expected = run(halved, ids=halved.example["ids"])
    path = onnx_exporter.write(halved, tmp_path)
    in_onnx = [
        numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.FLOAT16
    ]
    file = read_file(tflite.write(halved, tmp_path))
    constants = [file.constant(tensor) for tensor in file.model.subgraphs[0].tensors]
    in_tflite = [held for held in constants if held is not None and held.dtype == np.float16]
    assert len(in_onnx) == len(in_tflite) == 3
    for held in in_tflite:
        flat = np.sort(held.ravel())
        assert any(np.array_equal(flat, np.sort(other.ravel())) for other in in_onnx)
    for engine in (ort.start(path, threads=1), litert.start(tmp_path / "model.tflite", threads=1)):
        np.testing.assert_allclose(engine.run({"ids": ids})["y"], expected, rtol=0, atol=1e-5)
    assert litert.start(tmp_path / "model.tflite").needs == {"lengths": {"batch": [1]}}


def test_a_table_is_looked_up_in_halves(halved: Model, tmp_path: Path):
    run_file(halved, tmp_path, ids=halved.example["ids"])
    graph = onnx.load(tmp_path / "model.onnx").graph
    (gather,) = [node for node in graph.node if node.op_type == "Gather"]
    (table,) = [t for t in graph.initializer if t.name == gather.input[0]]
    assert table.data_type == TensorProto.FLOAT16


def test_a_weight_that_two_layers_share_is_stored_once(tmp_path: Path):
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    made = Float16()(model_of(chain(first, nn.ReLU(), second), x=random(2, 16)), Data())
    assert made.history[0].note == "1 weights at float16"
    assert run_file(made, tmp_path, x=random(2, 16)).shape == (2, 16)
    assert (tmp_path / "model.onnx").stat().st_size < 2 * 16 * 16 * 2 + 1500


def test_small_weights_stay_and_a_model_without_others_is_unchanged():
    model = model_of(chain(nn.Linear(4, 3)), x=random(2, 4))
    assert Float16()(model, Data()) is model
    assert Float16(least=0)(model, Data()).history[0].note == "1 weights at float16"


def test_a_weight_that_float16_does_not_hold_is_refused():
    layer = nn.Linear(32, 16)
    with torch.no_grad():
        layer.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match="holds 100000; expected at most 65504"):
        Float16()(model_of(chain(layer), x=random(2, 32)), Data())


def test_a_setting_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="float16: least = -1; expected 0 or more"):
        Float16(least=-1)
