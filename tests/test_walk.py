"""A walk stops at each layer with what that layer reads, and holds no more than one layer's states."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.hugging_face import DECODERS, ENCODERS
from edgepress.compress.walk import walk
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UnsupportedError

from . import tiny_decoders, tiny_encoders


def seen(task, module: nn.Module, linear: str) -> dict[str, Tensor]:
    """What a Linear of each layer reads, gathered by the walk."""
    found: dict[str, list[Tensor]] = {}
    for stop in walk(task.model, module, task.data.calibration, "test"):
        stop.read([linear], lambda name, x, stop=stop: found.setdefault(f"{stop.name}.{name}", []).append(x))
    return {name: torch.cat(rows) for name, rows in found.items()}


def expected(task, module: nn.Module, name: str) -> Tensor:
    """The slow reference: the whole model is run, and a hook looks at that one layer; padding left out."""
    found: list[Tensor] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, args: found.append(args[0].detach()))
    rows = []
    for batch in task.data.calibration:
        inputs = {key: torch.from_numpy(array) for key, array in batch.items()}
        with torch.no_grad():
            module(**inputs)
        mask = inputs.get("attention_mask", torch.ones(inputs["input_ids"].shape))
        rows.append(found.pop()[mask.bool()])
    hook.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_can_be_walked_and_reads_what_it_reads_as_a_whole(kind: str, tmp_path: Path):
    task = tiny_decoders.read_tiny(tmp_path, kind, texts=6)
    linear = "mlp.c_proj" if kind == "gpt2" else "mlp.down_proj"
    found = seen(task, task.model.module, linear)
    assert len(found) == 2
    for name, rows in found.items():
        assert torch.allclose(rows, expected(task, task.model.module, name), atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "albert"])
def test_every_encoder_with_layers_of_its_own_can_be_walked(kind: str, tmp_path: Path):
    task = tiny_encoders.read_tiny(tmp_path, kind)
    linear = "ffn.lin2" if kind == "distilbert" else "output.dense"
    for name, rows in seen(task, task.model.module, linear).items():
        assert torch.allclose(rows, expected(task, task.model.module, name), atol=1e-5)


def test_a_layer_that_was_changed_is_what_the_next_one_reads_from(tmp_path: Path):
    task = tiny_decoders.read_tiny(tmp_path)
    module = copy.deepcopy(task.model.module)
    found: list[Tensor] = []
    for stop in walk(task.model, module, task.data.calibration, "test"):
        stop.read(["mlp.down_proj"], lambda name, x: found.append(x))
        for parameter in stop.layer.parameters():
            parameter.data *= 0.5
    second = torch.cat(found[len(found) // 2 :])
    assert torch.allclose(second * 0, expected(task, task.model.module, "decoder.model.layers.1.mlp.down_proj") * 0)
    halved = copy.deepcopy(task.model.module)
    for parameter in halved.get_submodule("decoder.model.layers.0").parameters():
        parameter.data *= 0.5
    assert torch.allclose(second, expected(task, halved, "decoder.model.layers.1.mlp.down_proj"), atol=1e-5)


def test_layers_that_read_the_same_are_told_together(tmp_path: Path):
    task = tiny_decoders.read_tiny(tmp_path)
    stop = next(walk(task.model, task.model.module, task.data.calibration, "test"))
    names = [f"self_attn.{x}_proj" for x in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj"]
    assert stop.sharing(names) == [names[:3], names[3:4], names[4:]]


def test_a_model_without_layers_in_a_row_is_refused(tmp_path: Path):
    flat = Model("flat", nn.Linear(4, 4), {"input": torch.zeros(2, 4)}, ("y",), {"input": {0: "batch"}})
    with pytest.raises(UnsupportedError, match="test: flat has no list of layers to walk along; leave this pass out"):
        next(walk(flat, flat.module, [{"input": torch.zeros(2, 4).numpy()}], "test"))
    albert = tiny_encoders.read_tiny(tmp_path, "albert", num_hidden_groups=1)
    with pytest.raises(UnsupportedError, match="no list of layers to walk along: one set of weights is run again"):
        next(walk(albert.model, albert.model.module, albert.data.calibration, "test"))


class Around(nn.Module):
    """A module that does something between two layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = inner

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:  # pyright: ignore
            x = layer(x) * 2
        return x


def test_layers_with_something_between_them_are_refused():
    inner = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
    model = Model("around", Around(inner).eval(), {"x": torch.zeros(2, 4, 8)}, ("y",), {"x": {0: "batch"}})
    with pytest.raises(UnsupportedError, match="test: the layers of Around do not just follow one another"):
        next(walk(model, model.module, [{"x": torch.zeros(2, 4, 8).numpy()}], "test"))


def test_missing_data_and_states_that_are_not_finite_are_told(tmp_path: Path):
    task = tiny_decoders.read_tiny(tmp_path)
    with pytest.raises(DataError, match="test needs calibration data and got no batch"):
        next(walk(task.model, task.model.module, Data().calibration, "test"))
    module = copy.deepcopy(task.model.module)
    module.get_submodule("decoder.model.layers.0.input_layernorm").weight.data[0] = torch.inf  # pyright: ignore
    stop = next(walk(task.model, module, task.data.calibration, "test"))
    with pytest.raises(DataError, match=r"layers.0.self_attn.q_proj reads a NaN or an infinity during calibration"):
        stop.read(["self_attn.q_proj"], lambda name, x: None)
