"""Tracing keeps the free axes, changes nothing, prints nothing, and says in one line why it cannot be done."""

import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgepress.export.model import Model
from edgepress.export.trace import first_line, quiet, trace
from edgepress.runtime.errors import ModelError, UnsupportedError


class Does(nn.Module):
    """A module that does what the function says."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def model(module: Callable[..., object], *shape: int, axes: dict[int, str] | None = None) -> Model:
    return Model("net", Does(module), {"x": torch.randn(shape or (2, 4))}, ("y",), {"x": axes or {0: "batch"}})


def test_a_traced_model_computes_the_same_at_other_lengths():
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Softmax(1))
    traced = trace(model(net, 2, 2, 4, axes={0: "batch", 1: "sequence"})).module()
    for shape in ((1, 2, 4), (5, 3, 4), (3, 17, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(traced(x=x), net(x))


def test_equal_lengths_of_an_example_are_not_taken_for_the_same_axis():
    traced = trace(model(nn.Softmax(-1), 2, 2, axes={0: "batch", 1: "sequence"})).module()
    assert traced(x=torch.ones(3, 7)).shape == (3, 7)


def test_an_axis_that_is_not_named_keeps_its_length():
    traced = trace(model(nn.Softmax(-1))).module()
    with pytest.raises(AssertionError, match=r"size\(\)\[1\] == 4"):
        traced(x=torch.ones(3, 5))


class Parts(nn.Module):
    """In training mode, dropout takes half of the values away and batch norm counts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x))


@pytest.mark.parametrize("training", [("", "norm", "dropout"), ("dropout",), ("",), ()])
def test_every_part_is_traced_in_evaluation_mode_and_goes_on_in_its_own(training: tuple[str, ...]):
    net = Parts().eval()
    for name, part in net.named_modules():
        part.training = name in training
    before = {name: value.clone() for name, value in net.state_dict().items()}
    traced = trace(model(net))
    assert {name for name, part in net.named_modules() if part.training} == set(training)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    x = torch.randn(3, 4)
    torch.testing.assert_close(traced.module()(x=x), net.eval()(x))


def test_a_module_that_fails_is_left_in_the_mode_that_it_was_in():
    net = nn.Sequential(nn.Linear(5, 5), nn.Dropout())
    with pytest.raises(ModelError):
        trace(model(net))
    assert all(part.training for part in net.modules())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Linear(5, 5), "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (lambda x: x.no_such_thing, "AttributeError"),
        (lambda x: {}["weight"], "KeyError: 'weight'"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x, y: x, "TypeError"),
    ],
)
def test_a_module_that_does_not_run_on_its_example_is_told_in_one_line(module: Callable[..., object], said: str):
    with pytest.raises(ModelError, match="net does not run on its own example: ") as caught:
        trace(model(module))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_that_the_module_does_not_know_is_told():
    with pytest.raises(ModelError, match="unexpected keyword argument 'image'"):
        trace(Model("net", nn.ReLU(), {"image": torch.ones(2)}, ("y",), {}))


@pytest.mark.parametrize(
    "function",
    [lambda x: x.reshape(2, 4) * 2, lambda x: x + torch.ones(2, 4), lambda x: x * x.shape[0] if x.shape[0] == 2 else x],
    ids=["reshape", "constant", "branch"],
)
def test_an_axis_that_the_code_fixes_is_refused(function: Callable[[Tensor], Tensor]):
    with pytest.raises(UnsupportedError, match=r"axis 0 \(batch\) of input 'x' is fixed to 2 by the model's own code"):
        trace(model(function))


def test_a_branch_that_depends_on_the_data_is_refused_without_a_word_on_the_terminal(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(UnsupportedError, match=r"net cannot be traced by torch\.export: .*data-dependent") as caught:
        trace(model(lambda x: x + 1 if x.sum() > 0 else x))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_quiet_ends_with_its_block():
    level = logging.root.manager.disable
    with quiet():
        warnings.warn("not told", stacklevel=1)
        assert not logging.getLogger("torch").isEnabledFor(logging.ERROR)
    with pytest.raises(ValueError, match="told"), quiet():
        raise ValueError("told")
    assert logging.root.manager.disable == level
    with pytest.warns(UserWarning, match="told again"):
        warnings.warn("told again", stacklevel=1)


@pytest.mark.parametrize(
    ("message", "line"), [("one\ntwo", "one"), ("\n\n  two  \nthree", "two"), ("", "ValueError"), (" \n", "ValueError")]
)
def test_the_first_line_says_something(message: str, line: str):
    assert first_line(ValueError(message)) == line
