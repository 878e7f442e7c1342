"""The losses of a student: against their equations, and against what cannot be taught."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.losses import cosine_distance, output_loss, relative_error, soft_cross_entropy
from edgepress.export.model import Model
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import DataError, ModelError, UnknownName, UnsupportedError, UsageError

from .quantize_check import One, random


class Two(nn.Module):
    """Two outputs, the second of them integers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(x)
        return logits, logits.argmax(-1)


class Head(nn.Linear):
    """`Linear(4, 3)` that takes `x`."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def model_of(module: nn.Module, *outputs: str) -> Model:
    return Model("net", module, {"x": torch.zeros(2, 4)}, outputs, {"x": {0: "batch"}})


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@given(st.integers(0, 10**6), st.floats(0.5, 8))
def test_soft_cross_entropy_is_kl_times_the_square_of_the_temperature(seed: int, temperature: float):
    student, teacher = random(5, 7, seed=seed).double(), 3 * random(5, 7, seed=seed + 1).double()
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    expected = temperature**2 * np.mean([sum(a * math.log(a / b) for a, b in zip(*rows)) for rows in zip(p, q)])  # noqa: B905
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)
    assert soft_cross_entropy(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10**6))
def test_cosine_distance_and_relative_error_are_their_equations(seed: int):
    s, t = random(5, 7, seed=seed).double(), random(5, 7, seed=seed + 1).double()
    cosines = [float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in zip(s, t, strict=True)]
    assert cosine_distance(s, t).item() == pytest.approx(1 - np.mean(cosines), rel=1e-9)
    assert cosine_distance(3 * t, t).item() == pytest.approx(0, abs=1e-9)
    assert relative_error(s, t).item() == pytest.approx(float(((s - t) ** 2).sum() / (t**2).sum()), rel=1e-9)
    assert relative_error(3 * t, t).item() == pytest.approx(4, rel=1e-9)


@pytest.mark.parametrize(("output", "kind"), [("logits", "auto"), ("y", "logits"), ("y", "auto"), ("logits", "cosine")])
def test_an_output_is_judged_by_its_name_or_as_is_said(output: str, kind):
    teacher, student = Head(), Head()
    x = random(6, 4)
    found = output_loss(model_of(teacher, output), kind, 3.0)(student, {"x": x} | {"label": torch.zeros(6)})
    s, t = student(x), teacher(x)
    soft = kind == "logits" or (kind, output) == ("auto", "logits")
    expected = soft_cross_entropy(s, t, 3.0) if soft else cosine_distance(s, t) + relative_error(s, t)
    assert found.item() == pytest.approx(expected.item())


def test_the_teacher_is_the_model_as_it_came_and_gets_no_gradient():
    first, second, student = Head(), Head(), Head()
    model = model_of(first, "y").then(second, Step("prune", {}, ""))
    loss = output_loss(model)
    assert loss(first, {"x": random(6, 4)}).item() == pytest.approx(0, abs=1e-6)
    loss(student, {"x": random(6, 4)}).backward()
    assert student.weight.grad is not None
    assert first.weight.grad is None


def test_the_teacher_runs_in_evaluation_mode_and_keeps_its_own():
    module = One(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9))).train()
    loss = output_loss(model_of(module, "y"))
    student = copy.deepcopy(module).eval()
    assert loss(student, {"x": random(6, 4)}).item() == pytest.approx(0, abs=1e-6)
    assert module.training


def test_labels_are_cross_entropy_of_the_first_output():
    module, x, label = Two(), random(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    found = output_loss(model_of(module, "logits", "top"), "labels")(module, {"x": x, "label": label})
    p = softmax(module.head(x).detach().numpy())
    assert found.item() == pytest.approx(-np.mean(np.log(p[np.arange(6), label.numpy()])), rel=1e-5)


def test_an_output_of_integers_teaches_nothing():
    module, student = Two(), Two()
    x = random(6, 4)
    found = output_loss(model_of(module, "logits", "top"))(student, {"x": x})
    assert found.item() == pytest.approx(soft_cross_entropy(student(x)[0], module(x)[0], 2.0).item())


class Top(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


def test_what_cannot_be_taught_is_refused():
    module, x = Head(), random(6, 4)
    model = model_of(module, "y")
    with pytest.raises(UnknownName, match="unknown loss 'hinge'; known: auto, cosine, labels, logits"):
        output_loss(model, "hinge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"temperature = 0\.0; expected a number above 0"):
        output_loss(model, temperature=0.0)
    with pytest.raises(ModelError, match=r"net: the student gives \[6, 2\], its teacher \[6, 3\]"):
        output_loss(model)(Head(2), {"x": x})
    with pytest.raises(ModelError, match=r"net: a module gives 1 outputs; expected \['y', 'z'\]"):
        output_loss(model_of(module, "y", "z"))(module, {"x": x})
    with pytest.raises(UnsupportedError, match="net has no floating output"):
        output_loss(model_of(Top(), "top"))(Top(), {"x": x})
    with pytest.raises(DataError, match=r"a training batch has the inputs \['image'\]; net takes \['x'\]"):
        output_loss(model_of(Top(), "top"))(Top(), {"image": x})
    with pytest.raises(DataError, match="and no 'label'; the loss `labels` wants it"):
        output_loss(model, "labels")(module, {"x": x})
