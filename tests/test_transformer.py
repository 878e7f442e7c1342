"""A unit that is cut out of a transformer gives the same as one whose readers have zeros for it."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.encoder import read_encoder
from edgepress.compress.groups import Group
from edgepress.compress.hugging_face import DECODERS
from edgepress.compress.transformer import heads, neurons, refuse_unknown, stack, with_depth, with_units
from edgepress.export.model import Model
from edgepress.runtime.errors import UnsupportedError

from . import tiny_decoders
from .tiny_encoders import write_encoder

KINDS = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
WITH_HEADS = tuple(kind for kind in KINDS if kind != "mpnet")
WITH_LAYERS = tuple(kind for kind in KINDS if kind != "albert")


def encoder(folder: Path, kind: str, **settings: int) -> Model:
    write_encoder(folder, kind, **settings)
    return read_encoder(folder, None).model


def without(groups: list[Group], *units: int) -> list[Group]:
    return [replace(g, kept=tuple(u for u in range(g.size) if u not in units)) for g in groups]


def zeroed(module: nn.Module, groups: list[Group]) -> nn.Module:
    """The slow reference: all as large as before, and what reads a unit that is cut has zeros there."""
    result = copy.deepcopy(module)
    for group in groups:
        for name, units in group.columns.items():
            for column, unit in enumerate(units.tolist()):
                if unit not in group.kept:
                    result.get_submodule(name).weight.data[:, column] = 0
    return result


def same(model: Model, a: nn.Module, b: nn.Module) -> None:
    (x,), (y,) = (replace(model, module=m)(**model.example).values() for m in (a, b))
    assert torch.allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_that_are_cut_give_what_neurons_without_output_give(kind: str, tmp_path: Path):
    model = encoder(tmp_path / kind, kind)
    found = neurons(model.module)
    assert [group.size for group in found] == [32] * (1 if kind == "albert" else 2)
    groups = without(found, 0, 5, 31)
    cut = with_units(model.module, groups)
    same(model, cut, zeroed(model.module, groups))
    for group in groups:
        assert cut.get_submodule(group.name).out_features == 29
        assert model.module.get_submodule(group.name).out_features == 32, "the module at hand has changed"


@pytest.mark.parametrize("kind", WITH_HEADS)
def test_heads_that_are_cut_give_what_heads_without_output_give(kind: str, tmp_path: Path):
    model = encoder(tmp_path / kind, kind)
    groups = without(heads(model.module), 0)
    cut = with_units(model.module, groups)
    same(model, cut, zeroed(model.module, groups))
    attention = cut.get_submodule(groups[0].name)
    assert getattr(attention, "num_attention_heads", getattr(attention, "n_heads", None)) == 1
    assert getattr(attention, "all_head_size", 8) == 8


def test_heads_of_layers_that_share_a_table_of_them_stay_whole_and_say_why(tmp_path: Path):
    groups = heads(encoder(tmp_path / "mpnet", "mpnet").module)
    assert {group.why for group in groups} == {"all layers share one table of position biases, a column a head"}


@pytest.mark.parametrize("kind", WITH_LAYERS)
def test_the_layers_that_stay_keep_their_order_and_their_weights(kind: str, tmp_path: Path):
    size = "n_layers" if kind == "distilbert" else "num_hidden_layers"
    model = encoder(tmp_path / kind, kind, **{size: 4})
    group = stack(model.module)
    assert group is not None
    assert group.size == 4
    shallow = with_depth(model.module, replace(group, kept=(0, 2)))
    layers, kept = (m.get_submodule(group.name) for m in (model.module, shallow))
    assert [len(layers), len(kept)] == [4, 2]
    for layer, from_ in zip(kept, (layers[0], layers[2]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), from_.parameters(), strict=True))
    assert torch.isfinite(next(iter(replace(model, module=shallow)(**model.example).values()))).all()


def test_albert_has_no_layers_to_drop(tmp_path: Path):
    group = stack(encoder(tmp_path / "albert", "albert").module)
    assert group is None or group.why


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_torchs_own_encoder_loses_neurons_and_layers_but_no_heads():
    model = Model("torchs", Torchs().eval(), {"x": torch.rand(2, 5, 8)}, ("y",), {})
    groups = without(neurons(model.module), 1, 2)
    same(model, with_units(model.module, groups), zeroed(model.module, groups))
    assert all("MultiheadAttention" in group.why for group in heads(model.module))
    group = stack(model.module)
    assert group is not None
    shallow = with_depth(model.module, replace(group, kept=(2,)))
    assert shallow.body.num_layers == 1
    same(model, shallow, Last(model.module.body.layers[2]))


class Last(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_linear_layers_in_a_row_hide_neurons_where_only_elementwise_functions_lie_between():
    def names(*layers: nn.Module) -> list[str]:
        return [group.name for group in neurons(nn.Sequential(*layers))]

    assert names(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 5), nn.Linear(5, 2)) == ["0", "3"]
    assert names(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5)) == []
    assert names(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 5)) == []


def test_a_layer_that_another_pass_has_changed_is_refused_by_name(tmp_path: Path):
    model = encoder(tmp_path / "bert", "bert")
    model.module.encoder.encoder.layer[1].output.dense = nn.Sequential(nn.Linear(32, 16))
    with pytest.raises(UnsupportedError, match=r"layer\.1\.output\.dense is a Sequential; prune before other passes"):
        neurons(model.module)


def test_attention_that_nobody_knows_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UnsupportedError, match=r"structured: 0 is a MultiheadAttention, in no layer that is known"):
        refuse_unknown(nn.Sequential(nn.MultiheadAttention(8, 2)), "set heads = 0")
    refuse_unknown(encoder(tmp_path / "bert", "bert").module, "set heads = 0")
    refuse_unknown(nn.Linear(3, 3), "set heads = 0")


@pytest.mark.parametrize("kind", DECODERS)
def test_units_of_a_decoder_that_are_cut_give_what_units_without_output_give(kind: str, tmp_path: Path):
    model = tiny_decoders.read_tiny(tmp_path, kind, texts=4).model
    groups = without(neurons(model.module), 0, 5, 31)
    assert len(groups) == 2
    if kind == "gpt2":
        assert {group.why for group in heads(model.module)} == {
            "all heads together are as wide as the states, by its config"
        }
    else:
        groups += without(heads(model.module), 1)  # of two heads of keys and values, with two heads of queries each
    same(model, with_units(model.module, groups), zeroed(model.module, groups))
