"""A division folded into the layer before, in decoders of every kind that transformers has here."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.folding import fold
from edgepress.export.model import Model

from .tiny_decoders import read_tiny

_LAYER = "decoder.model.layers.0"
_QKV = tuple(f"{_LAYER}.self_attn.{letter}_proj" for letter in "qkv")
_MLP = f"{_LAYER}.mlp"


def scale(width: int) -> Tensor:
    """Between 1/4 and 4, as AWQ's are."""
    return 4 ** (2 * torch.rand(width, generator=torch.Generator().manual_seed(1)) - 1)


def folded(model: Model, names: tuple[str, ...]) -> str | None:
    """Fold into a model, which must compute the same afterwards; the readers' weights show whether it was done."""
    first = model.module.get_submodule(names[0]).get_parameter("weight")
    before, s = first.detach().clone(), scale(first.shape[1])
    wanted = model(**model.example)
    maker = fold(model, names, s)
    for name, value in model(**model.example).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-4 * float(value.abs().amax()))
    after = model.module.get_submodule(names[0]).get_parameter("weight")
    torch.testing.assert_close(after, before if maker is None else before * s)
    return maker


@pytest.mark.parametrize(
    ("kind", "names", "maker"),
    [
        ("llama", _QKV, "input_layernorm"),
        ("llama", (f"{_MLP}.gate_proj", f"{_MLP}.up_proj"), "post_attention_layernorm"),
        ("llama", (f"{_MLP}.down_proj",), "mlp.up_proj"),
        ("qwen2", _QKV, "input_layernorm"),
        ("qwen3", _QKV, "input_layernorm"),
        ("gemma", _QKV, "input_layernorm"),
        ("gemma3_text", (f"{_MLP}.gate_proj", f"{_MLP}.up_proj"), "pre_feedforward_layernorm"),
        ("phi3", (f"{_LAYER}.self_attn.qkv_proj",), "input_layernorm"),
    ],
)
def test_the_norm_or_the_layer_before_takes_the_division(kind: str, names: tuple[str, ...], maker: str, tmp_path: Path):
    assert folded(read_tiny(tmp_path, kind).model, names) == f"{_LAYER}.{maker}"


def test_values_take_the_division_of_the_projection_behind_them_where_each_head_has_its_own(tmp_path: Path):
    model = read_tiny(tmp_path, num_key_value_heads=4).model
    assert folded(model, (f"{_LAYER}.self_attn.o_proj",)) == f"{_LAYER}.self_attn.v_proj"


def test_heads_that_share_their_values_cannot_take_it_and_nothing_changes(tmp_path: Path):
    model = read_tiny(tmp_path).model
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    assert folded(model, (f"{_LAYER}.self_attn.o_proj",)) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_a_norm_that_somebody_else_reads_too_keeps_its_weights(tmp_path: Path):
    assert folded(read_tiny(tmp_path).model, _QKV[:2]) is None


class Net(nn.Module):
    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.norm, self.first, self.between, self.last = nn.LayerNorm(8), nn.Linear(8, 8), between, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(self.norm(x))))


def net(between: nn.Module) -> Model:
    torch.manual_seed(0)
    module = Net(between).eval()
    nn.init.normal_(module.norm.bias)
    return Model("net", module, {"x": torch.randn(5, 8)}, ("y",), {"x": {0: "batch"}})


def test_biases_are_divided_too_and_nothing_goes_through_a_gelu():
    assert folded(net(nn.GELU()), ("first",)) == "norm"
    assert folded(net(nn.ReLU()), ("last",)) == "first", "relu(x/s) is relu(x)/s"
    assert folded(net(nn.GELU()), ("last",)) is None
