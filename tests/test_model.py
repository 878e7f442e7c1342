"""A model keeps its history, names its outputs, and is never changed in place."""

import pytest
import torch
from torch import nn

from edgepress.export.model import Model
from edgepress.runtime.artifact import Step


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


def test_outputs_come_by_name_and_without_gradients():
    x = torch.ones(2, 3, requires_grad=True)
    one = Model("one", nn.Identity(), {"input": x}, ("y",), {})
    assert one(input=x).keys() == {"y"}
    two = Model("two", Two(), {"x": x}, ("sum", "product"), {})(x=x)
    assert torch.equal(two["sum"], torch.full((2, 3), 2.0))
    assert torch.equal(two["product"], torch.full((2, 3), 2.0))
    assert not two["sum"].requires_grad


def test_a_module_that_returns_another_number_of_outputs_is_noticed():
    with pytest.raises(ValueError, match="longer"):
        Model("two", Two(), {}, ("only",), {})(x=torch.ones(1))


def test_a_step_gives_a_new_model_and_leaves_the_old_one():
    before = Model("net", nn.Identity(), {}, ("y",), {}, history=(Step("train"),))
    module = nn.ReLU()
    after = before.then(module, Step("fold", {"layers": 3}, "3 batch norms"))
    assert after.module is module
    assert [step.name for step in after.history] == ["train", "fold"]
    assert [step.name for step in before.history] == ["train"]
    assert isinstance(before.module, nn.Identity)
    assert after.name == "net"
