"""The TFLite exporter: float models, their fixed shapes, and what cannot be said in the format."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.source import Task, read_source, with_lengths
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.tflite import write
from edgepress.runtime import load
from edgepress.runtime.artifact import Port, read_artifact
from edgepress.runtime.errors import EdgepressError, ModelError, PortError, UnsupportedError
from edgepress.runtime.golden import difference
from edgepress.runtime.session import LoadedModel

from .quantize_check import chain, model_of, random, seeded
from .tflite_check import pooled


@pytest.fixture(scope="module")
def digits(digits_task: Path) -> Task:
    return read_source(str(digits_task))


@pytest.fixture(scope="module")
def digits_file(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(digits.model, "tflite", tmp_path_factory.mktemp("digits") / "digits").path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Sequences of 8 and 16, and what edgepress makes of all other lengths."""
    return load(export(pooled(sequence=(8, 16)), "tflite", tmp_path_factory.mktemp("texts") / "texts").path)


def torch_gives(model: Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def test_the_digits_network_scores_as_its_onnx_file_does(digits: Task, digits_file: Path, tmp_path: Path):
    assert digits.data.score is not None
    onnx = load(export(digits.model, "onnx", tmp_path / "onnx").path)
    tflite = load(digits_file)
    assert digits.data.score(tflite) == digits.data.score(onnx)
    images = np.random.default_rng(0).random((7, 1, 32, 32), np.float32)
    np.testing.assert_allclose(tflite(image=images)["logits"], onnx(image=images)["logits"], rtol=0, atol=1e-4)


def test_the_digits_network_in_int8_gives_every_image_the_class_that_its_onnx_file_gives(
    digits: Task, digits_sample: ModuleType, tmp_path: Path
):
    model = StaticInt8(reduce_range=find_device("host").reduce_range)(digits.model, digits.data)
    tflite = export(model, "tflite", tmp_path / "tflite")
    assert tflite.bytes <= 100_000
    images = digits_sample.digits().test_images
    given, expected = (
        load(path)(image=images)["logits"] for path in (tflite.path, export(model, "onnx", tmp_path / "o").path)
    )
    assert np.array_equal(given.argmax(1), expected.argmax(1))
    assert difference(given, expected) <= 0.02


def test_an_artifact_has_the_same_ports_as_in_onnx_and_tells_its_lengths(digits_file: Path):
    artifact = read_artifact(digits_file)
    assert artifact.format == "tflite"
    assert artifact.inputs == (Port("image", "float32", ("batch", 1, 32, 32)),)
    assert artifact.outputs == (Port("logits", "float32", ("batch", 10)),)
    assert artifact.needs == {"lengths": {"batch": [1]}}
    assert artifact.asset("labels.json") is not None
    assert {"ai-edge-litert", "litert-torch", "torch"} <= set(artifact.tools)
    assert load(digits_file).selftest().passed


@pytest.mark.parametrize("length", [1, 5, 8, 9, 16])
def test_any_length_up_to_the_longest_gives_what_torch_gives(texts: LoadedModel, length: int):
    ids = np.random.default_rng(length).integers(1, 50, (3, length))
    mask = np.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0
    expected, given = torch_gives(pooled(), ids=ids, mask=mask), texts(ids=ids, mask=mask)
    for name in ("mean", "states"):
        assert given[name].shape == expected[name].shape
        np.testing.assert_allclose(given[name], expected[name], rtol=0, atol=1e-5)


def test_a_longer_text_or_inputs_of_different_lengths_are_refused(texts: LoadedModel):
    assert texts.artifact.needs == {"lengths": {"batch": [1], "sequence": [8, 16]}}
    ids = np.ones((2, 17), np.int64)
    with pytest.raises(PortError, match="sequence 17; this file takes sequence up to 16"):
        texts(ids=ids, mask=ids)
    with pytest.raises(PortError, match="input 'mask' has sequence 3, another one 5; expected the same"):
        texts(ids=ids[:, :5], mask=ids[:, :3])


class Shared(nn.Module):
    """An encoder whose output layer is its table: one tensor in the model and in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) @ self.table.weight.T


def test_several_lengths_share_their_weights(tmp_path: Path):
    ids = torch.arange(6).reshape(2, 3)
    axes = {"ids": {0: "batch", 1: "sequence"}}
    sizes = [
        write(Model("net", seeded(Shared()), {"ids": ids}, ("y",), axes, lengths={"sequence": lengths}), tmp_path)
        .stat()
        .st_size
        for lengths in ((4,), (4, 8, 12))
    ]
    table = 500 * 16 * 4
    assert table < sizes[0]
    assert sizes[1] - sizes[0] < table / 2


def test_the_module_is_left_as_it_was(tmp_path: Path):
    module = chain(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    model = Model("net", module, {"x": random(2, 4)}, ("y",), {"x": {0: "batch"}})
    write(model, tmp_path)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_nothing_of_the_converter_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    write(model_of(nn.Linear(4, 3), input=random(2, 4)), tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """all-MiniLM-L6-v2 for 64 tokens, and lines of the standard library to judge it by."""
    source = (Path(os.__file__).parent / "argparse.py").read_text(encoding="utf-8")
    texts = tmp_path_factory.mktemp("texts") / "texts.txt"
    texts.write_text(
        "\n".join(line.strip(" #") for line in source.splitlines() if line.count(" ") > 12)[:9000], "utf-8"
    )
    return with_lengths(read_source(str(minilm), texts), "64")


def test_a_real_encoder_in_int8_stays_near_the_original(encoder: Task, tmp_path: Path):
    model = DynamicInt8()(encoder.model, encoder.data)
    model = WeightOnly(bits=8, block=512, symmetric=True, layers=("embedding",))(model, encoder.data)
    artifact = export(model, "tflite", tmp_path / "minilm")
    assert artifact.bytes <= 23_600_000
    assert encoder.data.score is not None
    figures = encoder.data.score(load(artifact.path, threads=1))
    assert figures["cosine"] >= 0.998
    assert figures["worst_cosine"] >= 0.99


class Singular(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1).values


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (model_of(Singular(), x=random(2, 4, 4)), UnsupportedError, "net cannot be said in TFLite"),
        (model_of(Sorted(), x=random(2, 4)), UnsupportedError, "net cannot be run by LiteRT: .*STABLEHLO_SORT"),
        (pooled(masked=False), UnsupportedError, "when it is padded with zeros along sequence"),
        (model_of(nn.Linear(4, 3), input=random(2, 5)), ModelError, "net does not run on its own example"),
    ],
    ids=["operator", "kernel", "padding", "example"],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: Model, kind: type[EdgepressError], said: str
):
    with pytest.raises(kind, match=said) as error:
        export(model, "tflite", tmp_path / "net")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_converter_the_line_that_installs_it_is_said(tmp_path: Path, perceptron_task: Path):
    code = (
        "import sys; sys.modules['litert_torch'] = None\n"
        "from pathlib import Path\n"
        "from edgepress.compress.source import read_source\n"
        "from edgepress.export.formats import export\n"
        "from edgepress.runtime import EdgepressError\n"
        f"try: export(read_source({str(perceptron_task)!r}).model, 'tflite', Path({str(tmp_path / 'net')!r}))\n"
        "except EdgepressError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "litert-torch is not installed; it comes with: pip install 'edgepress[tflite]'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_model_larger_than_a_flatbuffer_is_refused_before_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgepress.export.tflite.MAX_BYTES", 1000)
    with pytest.raises(UnsupportedError, match=r"the weights take 0\.0 GB as floats, one TFLite file holds 2 GB"):
        write(model_of(nn.Linear(64, 30), input=random(2, 64)), tmp_path)
    assert list(tmp_path.iterdir()) == []
