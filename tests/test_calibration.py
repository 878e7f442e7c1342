"""Calibration walks every batch once, keeps none, and says what is wrong with the data."""

import weakref
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from edgepress.compress.calibration import calibrate
from edgepress.compress.data import Batch
from edgepress.runtime.errors import DataError


def seen(*batches: Batch) -> list[Mapping[str, Tensor]]:
    found: list[Mapping[str, Tensor]] = []
    calibrate(found.append, ["x"], batches, "the pass")
    return found


def test_every_batch_is_run_in_order_without_gradients() -> None:
    batches = [np.full((2, 3), i, np.float32) for i in range(4)]
    modes: list[bool] = []
    calibrate(lambda _: modes.append(torch.is_grad_enabled()), ["x"], [{"x": b} for b in batches], "the pass")
    assert modes == [False] * 4
    assert torch.is_grad_enabled()
    found = seen(*({"x": b} for b in batches))
    assert [float(inputs["x"][0, 0]) for inputs in found] == [0, 1, 2, 3]


def test_arrays_may_lie_in_memory_as_they_like_and_keep_their_type() -> None:
    backwards = np.arange(6, dtype=np.int64)[::-1]
    locked = np.broadcast_to(np.float32(1), (2, 3))
    found = seen({"x": backwards}, {"x": locked})
    assert found[0]["x"].tolist() == [5, 4, 3, 2, 1, 0]
    assert (found[0]["x"].dtype, found[1]["x"].dtype) == (torch.int64, torch.float32)


def test_batches_may_come_from_a_generator_and_are_let_go() -> None:
    """Whatever the number of batches, no more than the one at hand and the one just made are alive."""
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def batches() -> Iterator[Batch]:
        for _ in range(20):
            array = np.zeros(1000, np.float32)
            made.append(weakref.ref(array))
            yield {"x": array}

    def run(_: Mapping[str, Tensor]) -> None:
        alive.append(sum(ref() is not None for ref in made))

    calibrate(run, ["x"], batches(), "the pass")
    assert len(alive) == 20
    assert max(alive) <= 2


def test_no_batch_is_refused_in_the_name_of_the_pass() -> None:
    with pytest.raises(DataError, match=r"static_int8 needs calibration data and got no batch; bring --data"):
        calibrate(print, ["x"], [], "static_int8")


@pytest.mark.parametrize("batch", [{"y": np.ones(1)}, {}, {"x": np.ones(1), "y": np.ones(1)}])
def test_other_inputs_than_the_models_are_refused(batch: Batch) -> None:
    with pytest.raises(DataError, match=r"a calibration batch has the inputs \[.*\]; the model takes \['x'\]"):
        seen(batch)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_before_anything_runs(bad: float) -> None:
    found: list[Mapping[str, Tensor]] = []
    with pytest.raises(DataError, match="'x' holds 1 values that are NaN or infinite"):
        calibrate(found.append, ["x"], [{"x": np.array([1, bad], np.float32)}], "the pass")
    assert not found


@pytest.mark.parametrize(
    "run",
    [
        lambda inputs: inputs["x"] @ torch.ones(5, 1),
        lambda inputs: inputs["x"][7],
        lambda inputs: inputs["x"].pixels,
        lambda inputs: inputs["x"].unflatten(0, (4, 2)),
    ],
    ids=["a matrix that does not fit", "an index too high", "an attribute", "a shape that does not split"],
)
def test_a_batch_that_the_model_does_not_run_on_is_named_with_its_shape(
    run: Callable[[Mapping[str, Tensor]], object],
) -> None:
    with pytest.raises(DataError, match=r"does not run on a calibration batch of shape \{'x': \[2, 3\]\}: .+"):
        calibrate(run, ["x"], [{"x": np.ones((2, 3), np.float32)}], "the pass")


def test_an_array_that_torch_has_no_type_for_is_refused() -> None:
    with pytest.raises(DataError, match="does not run on a calibration batch"):
        seen({"x": np.array(["a", "b"])})
