"""A model keeps its history, names its ports, and is never changed in place."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from edgepress.export.model import Model
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import ModelError


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


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((torch.ones(1), torch.ones(1)), "Tensor, Tensor"),
        ((), ""),
        ((None,), "NoneType"),
        (3.0, "float"),
        (OrderedDict(logits=torch.ones(1)), "OrderedDict"),
    ],
)
def test_a_module_that_does_not_return_its_outputs_is_noticed(value: Any, said: str):
    with pytest.raises(ModelError, match=rf"net returns \({said}\); expected a tensor for each of \['y'\]"):
        Model("net", Returns(value), {}, ("y",), {})(x=torch.ones(1))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a/"])
def test_a_name_that_is_no_file_name_is_refused(name: str):
    with pytest.raises(ModelError, match="plain file name"):
        Model(name, nn.Identity(), {}, ("y",), {})
    with pytest.raises(ModelError, match="plain file name"):
        Model("net", nn.Identity(), {}, ("y",), {}, assets={name: b""})


@pytest.mark.parametrize(("inputs", "outputs"), [("x", "yy"), ("x", "x"), ("ab", "ycb")])
def test_no_two_ports_have_the_same_name(inputs: str, outputs: str):
    with pytest.raises(ModelError, match="twice, or as an input too"):
        Model("net", nn.Identity(), {name: torch.ones(2) for name in inputs}, tuple(outputs), {})


def test_free_axes_of_something_that_is_no_input_are_refused():
    with pytest.raises(ModelError, match="free axes of 'imgae', which is no input; its inputs are: image"):
        Model("net", nn.Identity(), {"image": torch.ones(2, 3)}, ("y",), {"imgae": {0: "batch"}})


@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 2), ((2, 3), -1), ((1, 3), 0), ((), 0)])
def test_a_free_axis_that_is_not_there_or_too_short_to_tell_is_refused(shape: tuple[int, ...], axis: int):
    with pytest.raises(ModelError, match=rf"axis {axis} shall stay free.*at least 2 long"):
        Model("net", nn.Identity(), {"x": torch.ones(shape)}, ("y",), {"x": {axis: "batch"}})


class Writes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


def test_a_module_that_writes_into_its_input_leaves_the_callers_alone():
    x = torch.zeros(2)
    model = Model("net", Writes(), {"x": x}, ("y",), {})
    assert torch.equal(model(x=x)["y"], torch.ones(2))
    assert torch.equal(x, torch.zeros(2))


def test_a_step_gives_a_new_model_and_leaves_the_old_one():
    before = Model("net", nn.Identity(), {}, ("y",), {}, history=(Step("train"),))
    module = nn.ReLU()
    after = before.then(module, Step("fold", {"layers": 3}, "3 batch norms"))
    assert after.module is module
    assert [step.name for step in after.history] == ["train", "fold"]
    assert [step.name for step in before.history] == ["train"]
    assert isinstance(before.module, nn.Identity)
    assert after.name == "net"
