"""Batches are all of the samples in their order, bad data is named, and top-1 is what its name says."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.data import batches, checked, top1
from edgepress.runtime.errors import DataError


@given(count=st.integers(1, 100), size=st.integers(1, 40))
def test_batches_hold_every_sample_once_in_order(count: int, size: int):
    cut = batches({"a": np.arange(count), "b": np.arange(count) * 2.0}, size)
    assert np.array_equal(np.concatenate([batch["a"] for batch in cut]), np.arange(count))
    assert all(np.array_equal(batch["a"] * 2.0, batch["b"]) for batch in cut)
    assert all(len(batch["a"]) == size for batch, _ in pairwise(cut))


@pytest.mark.parametrize(
    "arrays",
    [{"a": np.ones(3), "b": np.ones(4)}, {"a": np.ones((0, 3))}, {"a": np.array(1.0)}, {}],
    ids=["of different lengths", "empty", "a scalar", "none"],
)
def test_arrays_that_cannot_be_cut_together_are_refused(arrays: dict[str, np.ndarray]):
    with pytest.raises(DataError, match="samples by input"):
        batches(arrays)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_named(bad: float):
    batch = {"mask": np.ones(3, np.int64), "image": np.array([1, bad, bad, 2], np.float32)}
    with pytest.raises(DataError, match="'image' holds 2 values"):
        checked(batch)
    assert checked({"mask": batch["mask"]}) == {"mask": batch["mask"]}


def test_top1_is_the_share_of_samples_that_are_right():
    labels = np.arange(150) % 10

    def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.eye(10)[inputs["x"]]}

    assert top1({"x": labels}, labels, output="logits")(session) == {"top1": 1.0}
    wrong = labels.copy()
    wrong[:15] += 1
    assert top1({"x": wrong % 10}, labels, output="logits")(session) == {"top1": 0.9}
