"""Inputs are invented where none are recorded, and a file is tried on them."""

from pathlib import Path

import numpy as np
import pytest

from edgepress.runtime import load
from edgepress.runtime.artifact import Port
from edgepress.runtime.invented import invent, try_out

from .onnx_check import FLOAT, helper, write


@pytest.mark.parametrize("shape", [("batch", 3), (4, "sequence"), ()])
def test_free_axes_are_1_long_and_the_floats_always_the_same(shape: tuple):
    port = Port("x", "float32", shape)
    array = invent(port)
    assert array.shape == tuple(size if isinstance(size, int) else 1 for size in shape)
    assert array.dtype == np.float32
    assert np.array_equal(array, invent(port))


def test_integers_are_an_index_that_every_table_has_and_masks_hide_nothing():
    assert invent(Port("input_ids", "int64", ("batch", 4))).tolist() == [[0] * 4]
    assert invent(Port("attention_mask", "int64", ("batch", 4))).tolist() == [[1] * 4]
    assert invent(Port("text", "object", (2,))).tolist() == ["", ""]


def test_a_file_that_gives_the_same_finite_numbers_twice_passes(linear: Path):
    seen = try_out(load(linear))
    assert seen.passed
    assert (seen.cases, seen.difference) == (1, 0.0)


@pytest.mark.parametrize("op", ["Log", "RandomNormalLike"])
def test_numbers_that_are_not_finite_or_other_ones_each_time_do_not_pass(tmp_path: Path, op: str):
    path = write(tmp_path / "m.onnx", [helper.make_node(op, ["x"], ["y"])], {"x": (FLOAT, (8,))}, {"y": FLOAT}, {})
    assert not try_out(load(path)).passed
