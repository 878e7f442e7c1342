"""Fidelity is the cosine that its docstring says, of what the model gives on the very same samples."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.data import Batch
from edgepress.compress.fidelity import fidelity
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError


class Does(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def original(function: Callable[[Tensor], Tensor] = lambda x: x) -> Model:
    return Model("net", Does(function), {"x": torch.ones(2, 3)}, ("y",), {})


def judged(samples: Sequence[Batch], function: Callable[[np.ndarray], np.ndarray], model: Model | None = None):
    """The score of a session that computes `function` against the identity, or another original."""

    def session(**inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"y": function(inputs["x"])}

    return fidelity(model or original(), samples, "y")(session)


def batches(array: np.ndarray, size: int) -> list[Batch]:
    return [{"x": array[i : i + size]} for i in range(0, len(array), size)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """cos(a, b) = a·b / (|a| |b|)"""
    return float(np.dot(a, b) / (np.sqrt(np.dot(a, a)) * np.sqrt(np.dot(b, b))))


@given(count=st.integers(1, 7), size=st.integers(1, 4), width=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_figures_are_the_formulas(count: int, size: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, count, width)) + 0.1
    given_ = iter(batches(noise, size))
    figures = judged(batches(x, size), lambda _: next(given_)["x"])
    each = [cosine(a, b) for a, b in zip(x, noise, strict=True)]
    assert figures["cosine"] == pytest.approx(np.mean(each))
    assert figures["worst_cosine"] == pytest.approx(min(each))
    assert ("neighbour" in figures) == (count >= 3)
    if count >= 3:
        nearest = [
            [max((j for j in range(count) if j != i), key=lambda j: cosine(rows[i], rows[j])) for i in range(count)]
            for rows in (x, noise)
        ]
        assert figures["neighbour"] == pytest.approx(np.mean(np.equal(*nearest)))


def test_the_original_itself_reaches_one_whatever_its_scale():
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    for factor in (1.0, 1e-3, 1e3):
        figures = judged(batches(x, 2), lambda x, factor=factor: x * factor)
        assert figures == pytest.approx({"cosine": 1, "worst_cosine": 1, "neighbour": 1})


def test_the_opposite_is_minus_one_and_nothing_is_zero():
    x = np.eye(4, dtype=np.float32)
    assert judged(batches(x, 4), lambda x: -x)["cosine"] == pytest.approx(-1)
    assert judged(batches(x, 4), lambda x: 0 * x)["cosine"] == 0


def test_outputs_of_any_shape_are_compared_a_sample_at_a_time():
    x = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    assert judged(batches(x, 2), lambda x: x)["worst_cosine"] == pytest.approx(1)
    figures = judged(batches(x, 2), lambda x: np.array(2.0), original(lambda x: torch.tensor(3.0)))
    assert figures == pytest.approx({"cosine": 1, "worst_cosine": 1})  # two runs, each of one number


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_gives_no_number_has_a_score_that_is_none(bad: float):
    x = np.ones((4, 2), np.float32)
    figures = judged(batches(x, 2), lambda x: np.where(np.arange(2) > 0, bad, x))
    assert np.isnan(figures["cosine"])
    assert np.isnan(figures["worst_cosine"])


def test_without_samples_there_is_nothing_to_compare():
    with pytest.raises(DataError, match="got none; bring --data"):
        fidelity(original(), [], "y")


def test_an_original_that_gives_nan_is_told_before_anything_is_compressed():
    with pytest.raises(DataError, match="original model gives NaN or infinity at 'y'"):
        fidelity(original(lambda x: x / 0), batches(np.ones((2, 2), np.float32), 2), "y")


def test_samples_that_the_original_does_not_run_on_are_told_in_one_line():
    table = nn.Embedding(4, 2)
    with pytest.raises(DataError, match=r"net does not run on samples of shape \{'x': \[2\]\}: index out of range"):
        fidelity(original(table), [{"x": np.array([1, 9])}], "y")
