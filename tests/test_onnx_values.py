import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.onnx_values import as_ints, as_tensor, as_tensors, each, is_tensor

sizes = st.integers(-9, 9) | st.lists(st.integers(-9, 9), min_size=3, max_size=3) | st.lists(
    st.integers(-9, 9), min_size=1, max_size=1
)  # fmt: skip


@given(sizes, sizes)
@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.sub, operator.eq, operator.lt])
def test_sizes_compute_as_numpy_does(op, a, b) -> None:
    expected = op(np.array(a), np.array(b))
    assert np.array_equal(each(op, a, b), expected)
    assert np.shape(each(op, a, b)) == expected.shape
    assert np.array_equal(each(op, as_tensor(a), b), expected)


def test_a_list_that_meets_a_tensor_takes_its_type() -> None:
    assert each(operator.add, torch.ones(2), [1, 2]).dtype == torch.float32
    assert as_tensors([1], torch.zeros(1, dtype=torch.int32))[0].dtype == torch.int32


def test_values_become_tensors_of_onnxs_types() -> None:
    for value, dtype, shape in [(3, torch.int64, ()), ([1, 2], torch.int64, (2,)), ([], torch.int64, (0,)),
                                (0.5, torch.float32, ()), ([True], torch.bool, (1,))]:  # fmt: skip
        tensor = as_tensor(value)
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    assert as_ints(torch.tensor([2, 3])) == as_ints([2, 3]) == [2, 3]
    assert as_ints(torch.tensor(2)) == as_ints(2) == [2]
    assert is_tensor(0.5)
    assert not is_tensor([1])
