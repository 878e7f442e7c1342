"""Whole models: exported, read back, compared with ONNX Runtime, exported again."""

import copy
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from torch import nn
from transformers import BertConfig, BertModel

from edgepress.compress.onnx_graph import read_onnx
from edgepress.runtime.errors import ModelError, UnsupportedError

from .onnx_check import TOLERANCE, assert_same, check, floats, layers_of, rng, write, x34


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-8 in the MLPerf Tiny shape, with random weights and statistics."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2),
        Residual(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=64, max_position_embeddings=40)  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        weights = attention_mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9), hidden


def export(path: Path, module: nn.Module, example: Mapping[str, torch.Tensor], axes: Mapping[str, Any]) -> Path:
    """Write a module with torch's own exporter."""
    shapes = {n: dict.fromkeys(axes.get(n, {}), torch.export.Dim.AUTO) for n in example}
    with torch.no_grad():
        program = torch.export.export(module, (), dict(example), dynamic_shapes=shapes)
        exported = torch.onnx.export(program, dynamo=True, opset_version=21, verbose=False)
    assert exported is not None
    exported.save(path)
    return path


quiet = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = torch.ones(2, 7, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
        return export(path, Encoder(), dict.fromkeys(names, ids), {name: {0: "b", 1: "s"} for name in names})


def sentences(batch: int, length: int) -> dict[str, np.ndarray]:
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 + 1 :] = 0
    return {"input_ids": rng.integers(0, 60, (batch, length)), "attention_mask": mask,
            "token_type_ids": rng.integers(0, 2, (batch, length))}  # fmt: skip


def test_an_encoder_keeps_batch_and_sequence_free(encoder: Path) -> None:
    model = read_onnx(encoder)
    assert {n: len(a) for n, a in model.axes.items()} == {"input_ids": 2, "attention_mask": 2, "token_type_ids": 2}
    assert {tuple(t.shape) for t in model.example.values()} == {(2, 2)}
    for shape in [(1, 1), (3, 11), (2, 40)]:
        assert_same(encoder, model, sentences(*shape))


def test_an_encoders_layers_have_their_modules_names(encoder: Path) -> None:
    layers = layers_of(read_onnx(encoder))
    names = [n for n, m in Encoder().named_modules() if isinstance(m, nn.Linear | nn.Embedding | nn.LayerNorm)]
    assert sorted(layers) == sorted(names)
    assert layers["bert.encoder.layer.1.attention.self.query"] == "Linear"


@quiet
def test_an_encoder_goes_through_export_again(encoder: Path, tmp_path: Path) -> None:
    model = read_onnx(encoder)
    again = export(tmp_path / "again.onnx", model.module, model.example, model.axes)
    session, original = ort.InferenceSession(again), ort.InferenceSession(encoder)
    for shape in [(1, 3), (3, 11), (2, 40)]:
        inputs = sentences(*shape)
        for have, want in zip(session.run(None, inputs), original.run(None, inputs), strict=True):
            np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


@quiet
def test_a_cnn_comes_back_with_its_layers_and_goes_out_again(tmp_path: Path) -> None:
    net, images = resnet(), torch.randn(2, 1, 8, 8)
    path = export(tmp_path / "resnet.onnx", net, {"input": images}, {"input": {0: "batch"}})
    model = read_onnx(path)
    assert list(layers_of(model).values()).count("Conv2d") == 10
    assert list(layers_of(model).values())[-1] == "Linear"
    for batch in (1, 2, 5):
        assert_same(path, model, {"input": floats(batch, 1, 8, 8)})
    again = export(tmp_path / "again.onnx", model.module, model.example, model.axes)
    x = floats(3, 1, 8, 8)
    want = ort.InferenceSession(path).run(None, {"input": x})[0]
    have = ort.InferenceSession(again).run(None, {"input": x})[0]
    np.testing.assert_allclose(have, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


def test_gradients_reach_the_layers(encoder: Path) -> None:
    model = read_onnx(encoder)
    model.module(**model.example)[0].sum().backward()
    assert all(p.grad is not None for p in model.module.parameters())


def test_a_static_file_has_no_free_axes(tmp_path: Path) -> None:
    model = check(tmp_path, "Relu", {"x": x34})
    assert model.axes == {}
    assert model.example["x"].shape == (3, 4)


def test_the_same_file_gives_the_same_example_and_hash(encoder: Path) -> None:
    a, b = read_onnx(encoder), read_onnx(encoder)
    assert all(torch.equal(a.example[n], b.example[n]) for n in a.example)
    assert a.source == {"kind": "onnx", "sha256": hashlib.sha256(encoder.read_bytes()).hexdigest()}
    assert a.name == "encoder"


def test_an_image_is_as_large_as_its_poolings_need(tmp_path: Path) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[9, 9])
    model = read_onnx(write(tmp_path / "m.onnx", [node], {"x": (1, ("n", 3, "h", "w"))}, {"y": 1}, {}))
    assert model.example["x"].shape == (2, 3, 32, 32)


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], "first"),
        helper.make_node("LSTM", ["x"], ["b"], "second"),
        helper.make_node("NonZero", ["x"], ["c"], "third"),
        helper.make_node("Resize", ["x"], ["d"], "fourth", mode="cubic"),
        helper.make_node("Relu", ["x"], ["e"], "fifth", slope=1),
        helper.make_node("MaxPool", ["x"], ["f", "g"], "sixth", kernel_shape=[1]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, (3, 4))}, dict.fromkeys("abcdefg", 1), {})
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(path)
    message = str(caught.value)
    for part in ("NonZero (first, third)", "LSTM (second)", "Resize with mode='cubic' (fourth)",
                 "Relu with attribute slope (fifth)", "MaxPool with 2 outputs (sixth)"):  # fmt: skip
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("op", ["QuantizeLinear", "MatMulInteger", "DynamicQuantizeLinear", "Attention"])
def test_a_quantized_file_is_refused_by_name(op: str, tmp_path: Path) -> None:
    domain = "com.microsoft" if op == "Attention" else ""
    path = write(
        tmp_path / "m.onnx", [helper.make_node(op, ["x"], ["y"], domain=domain)], {"x": (1, (3,))}, {"y": 1}, {}
    )
    with pytest.raises(UnsupportedError, match=rf"already quantized.*{op} \(1\); bring the float file"):
        read_onnx(path)


def test_a_copys_layer_can_be_replaced_by_its_name(encoder: Path) -> None:
    model = read_onnx(encoder)
    before = model(**model.example)
    changed = copy.deepcopy(model.module)
    old = changed.get_submodule("bert.encoder.layer.0.output.dense")
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, old.out_features)
    changed.get_submodule("bert.encoder.layer.0.output").dense = new
    assert not torch.allclose(changed(**model.example)[0], before[model.outputs[0]])
    assert torch.equal(model(**model.example)[model.outputs[0]], before[model.outputs[0]])


def test_a_table_of_one_row_gets_indices_that_it_has(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["w", "i"], ["y"])
    model = read_onnx(write(tmp_path / "m.onnx", [node], {"i": (7, ("n", "s"))}, {"y": 1}, {"w": floats(1, 4)}))
    assert not model.example["i"].any()


def test_a_divisor_is_never_zero_and_a_scalar_is_an_input_too(tmp_path: Path) -> None:
    node = helper.make_node("Div", ["a", "b"], ["y"])
    model = read_onnx(write(tmp_path / "m.onnx", [node], {"a": (7, ()), "b": (7, (4,))}, {"y": 7}, {}))
    assert model.example["b"].all()


@pytest.mark.parametrize("op", ["Conv", "Add"])
def test_shapes_that_do_not_fit_are_told_by_their_node(op: str, tmp_path: Path) -> None:
    node = helper.make_node(op, ["x", "w"], ["y"], "the_node")
    path = write(tmp_path / "m.onnx", [node], {"x": (1, (1, 3, 8, 8))}, {"y": 1}, {"w": floats(4, 5, 3, 3)})
    with pytest.raises(ModelError, match="node 'the_node' says") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)
