"""`W ≈ s·(Q − z)`, element by element, for each granularity."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgepress.export.qtensor import QTensor

U8, S8 = torch.uint8, torch.int8
LIMITS = {(U8, 4): (0, 15), (U8, 8): (0, 255), (S8, 8): (-128, 127)}


def slow(q: QTensor) -> Tensor:
    """Each element by the definition: which scale and zero point are its own is looked up, not broadcast."""
    result = torch.empty(q.values.shape)
    for index in itertools.product(*map(range, q.values.shape)):
        if q.block is not None:
            group = (*index[:-1], index[-1] // q.block)
        else:
            group = () if q.axis is None else (index[q.axis],)
        middle = 2 ** (q.bits - 1) if q.values.dtype == torch.uint8 else 0
        zero = middle if q.zero is None else int(q.zero[group])
        result[index] = float(np.float32(int(q.values[index]) - zero) * np.float32(float(q.scale[group])))
    return result


@st.composite
def qtensors(draw: st.DrawFn) -> QTensor:
    dtype, bits = draw(st.sampled_from(list(LIMITS)))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis, block = draw(
        st.one_of(
            st.just((None, None)),
            st.tuples(st.integers(0, len(shape) - 1), st.none()),
            st.tuples(st.none(), st.sampled_from([1, 2, 3, 16])),
        )
    )
    groups = () if axis is None else (shape[axis],)
    if block is not None:
        groups = (*shape[:-1], -(-shape[-1] // block))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = LIMITS[dtype, bits]

    def integers(size: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.asarray(rng.integers(low, high + 1, size))).to(dtype)

    scale = torch.from_numpy(np.asarray(rng.uniform(1e-3, 1, groups))).to(
        draw(st.sampled_from([torch.float32, torch.half]))
    )
    zero = integers(groups) if draw(st.booleans()) else None
    return QTensor(integers(shape), scale, zero, bits, axis, block)


@given(qtensors())
def test_dequantizing_is_the_definition_for_every_granularity(q: QTensor) -> None:
    assert torch.equal(q.dequantize(), slow(q))
    assert q.dequantize().dtype == torch.float32


def test_an_example_by_hand() -> None:
    values = torch.tensor([[0, 8, 15], [1, 2, 3]], dtype=torch.uint8)
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25]])
    q = QTensor(values, scale, torch.tensor([[4, 8], [0, 1]], dtype=torch.uint8), bits=4, block=2)
    assert torch.equal(q.dequantize(), torch.tensor([[-2.0, 2.0, 14.0], [1.0, 2.0, 0.5]]))


@pytest.mark.parametrize(
    ("dtype", "bits", "midpoint"), [(torch.uint8, 4, 8), (torch.uint8, 8, 128), (torch.int8, 8, 0)]
)
def test_without_a_zero_point_the_midpoint_stands_for_zero(dtype: torch.dtype, bits: int, midpoint: int) -> None:
    q = QTensor(torch.full((2, 3), midpoint, dtype=dtype), torch.tensor(0.1), bits=bits)
    assert q.midpoint == midpoint
    assert torch.equal(q.dequantize(), torch.zeros(2, 3))


def test_integers_that_count_biases_dequantize_too() -> None:
    q = QTensor(torch.tensor([2**30, -3], dtype=torch.int32), torch.tensor([2.0**-20, 0.5]), bits=32, axis=0)
    assert torch.equal(q.dequantize(), torch.tensor([1024.0, -1.5]))
