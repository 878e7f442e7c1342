"""Layers are found by kind and pattern, and another layer stands wherever the old one stood."""

import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.layers import find_layers, with_layers
from edgepress.runtime.errors import UsageError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.body = nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
        self.head = nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.body["norm"](self.body["query"](self.table(ids)) + self.body["key"](self.table(ids)))
        return self.head(x)


class Shared(nn.Module):
    """One layer under three names, and in a plain list that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.steps = nn.Sequential(self.first, nn.ReLU())
        self.plain = [self.first]

    def forward(self, x: Tensor) -> Tensor:
        return self.plain[0](self.again(self.steps(x)))


def names(kinds: list[str], **patterns: list[str]) -> list[str]:
    return list(find_layers(Net(), kinds, **patterns))


def test_layers_come_by_kind_in_the_modules_order() -> None:
    assert names(["linear"]) == ["body.query", "body.key", "head"]
    assert names(["embedding"]) == ["table"]
    assert names(["linear", "embedding"]) == ["table", "body.query", "body.key", "head"]
    assert names([]) == []
    assert list(find_layers(nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv2d(2, 2, 1)), ["conv1d", "conv2d"])) == ["0", "1"]


def test_patterns_choose_and_leave_out() -> None:
    assert names(["linear"], include=["body.*"]) == ["body.query", "body.key"]
    assert names(["linear"], exclude=["*.key"]) == ["body.query", "head"]
    assert names(["linear"], include=["body.*", "head"], exclude=["*e*d", "*.query"]) == ["body.key"]
    assert names(["linear"], include=["head"], exclude=["head"]) == []


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_a_pattern_that_fits_no_layer_is_refused(where: str) -> None:
    expected = r"the pattern 'body.qeury' fits no linear layer; names look like body.query, body.key, head"
    with pytest.raises(UsageError, match=expected):
        names(["linear"], **{where: ["body.qeury"]})
    with pytest.raises(UsageError, match="fits no linear layer"):
        names(["linear"], **{where: ["table"]})  # it is there, but of another kind


def test_a_module_without_such_layers_asks_nothing_of_the_patterns() -> None:
    assert find_layers(nn.ReLU(), ["linear"], include=["*.query"]) == {}


def test_subclasses_compute_in_their_own_way_and_are_left_alone() -> None:
    attention = nn.MultiheadAttention(8, 2)
    assert isinstance(attention.out_proj, nn.Linear)
    assert find_layers(attention, ["linear"]) == {}


def test_a_layer_of_several_names_comes_once_and_is_known_by_each() -> None:
    module = Shared()
    assert find_layers(module, ["linear"]) == {"first": module.first}
    assert find_layers(module, ["linear"], include=["steps.*"]) == {"first": module.first}
    assert find_layers(module, ["linear"], exclude=["again"]) == {}


def test_the_replacement_stands_wherever_the_layer_stood() -> None:
    module, new = Shared(), nn.Linear(4, 4)
    result = with_layers(module, {"first": new})
    assert result.first is result.again is result.steps[0] is result.plain[0] is new
    x = torch.ones(1, 4)
    assert torch.equal(result(x), new(new(torch.relu(new(x)))))


def test_the_module_at_hand_is_not_changed_and_shares_nothing() -> None:
    module = Net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = with_layers(module, {"head": nn.Identity()})
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert isinstance(module.head, nn.Linear)
    assert isinstance(result.head, nn.Identity)


def test_weights_that_give_way_are_not_copied() -> None:
    """A copy of a large model with all of its layers replaced needs no second model's memory."""
    module = Net()
    layers = find_layers(module, ["linear", "embedding"])
    result = with_layers(module, dict.fromkeys(layers, nn.Identity()))
    assert [name for name, _ in result.named_parameters()] == ["body.norm.weight", "body.norm.bias"]


def test_tied_weights_stay_tied_in_what_is_left() -> None:
    module = Net()
    module.body["key"].weight = module.body["query"].weight
    result = with_layers(module, {"head": nn.Identity()})
    assert result.body["key"].weight is result.body["query"].weight
    assert result.body["key"].weight is not module.body["key"].weight


def test_a_parameter_that_a_replacement_has_from_the_module_stays_tied() -> None:
    module, new = Net(), nn.Linear(4, 4)
    module.body["key"].weight = new.weight = module.body["query"].weight
    result = with_layers(module, {"body.key": new})
    assert result.body["query"].weight is result.body["key"].weight is new.weight


def test_a_module_that_is_itself_the_layer_is_replaced_whole() -> None:
    linear, new = nn.Linear(3, 3), nn.Identity()
    assert find_layers(linear, ["linear"]) == {"": linear}
    assert with_layers(linear, {"": new}) is new


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padding", [False, True])
def test_torchs_transformer_encoder_runs_through_its_new_layers(padding: bool) -> None:
    """It has fast paths that take the weights of its layers past their forward."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 2).eval()
    calls: list[str] = []

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            calls.append("called")
            return self.inner(x)

    found = find_layers(module, ["linear"])
    result = with_layers(module, {name: Watched(inner) for name, inner in found.items()})
    x, mask = torch.rand(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = padding
    with torch.no_grad():
        expected = module(x, src_key_padding_mask=mask)
        actual = result(x, src_key_padding_mask=mask)
    assert len(calls) == len(found) == 4
    assert torch.allclose(actual[~mask], expected[~mask], atol=1e-5)
