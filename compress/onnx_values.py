"""What flows between ONNX operators in torch: tensors, and sizes as Python ints.

ONNX computes shapes with tensors (Shape -> Gather -> Concat -> Reshape). Were they torch tensors, a trace would lose
the free axes. So an int64 scalar is an int here and an int64 vector a list of ints, or of torch's SymInts under a
trace, as long as only sizes flow into it; it becomes a tensor where it meets one.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = Any  # a Tensor, an int, a list of ints, or a float32 scalar as a float
Ints: TypeAlias = list[int]
Floats: TypeAlias = list[float]

_SCALARS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def is_tensor(value: Value) -> bool:
    """True for a tensor or a float: what is no size."""
    return isinstance(value, Tensor | float)


def as_ints(value: Value) -> list[Any]:
    """Sizes as a list. A tensor's values are read, which a trace with free axes cannot do."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def as_tensor(value: Value, dtype: torch.dtype | None = None) -> Tensor:
    """A value as a tensor: ints become int64, bools bool, floats float32, where `dtype` says nothing else.

    >>> as_tensor([2, 3])
    tensor([2, 3])
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple):
        parts = [as_tensor(v, dtype) for v in value]
        return torch.stack(parts) if parts else torch.zeros(0, dtype=dtype or torch.int64)
    kinds = {bool: torch.bool, torch.SymBool: torch.bool, float: torch.float32, torch.SymFloat: torch.float32}
    return torch.full((), value, dtype=dtype or kinds.get(type(value), torch.int64))


def as_tensors(*values: Value) -> list[Tensor]:
    """Values as tensors of the first tensor's dtype."""
    dtype = next((v.dtype for v in values if isinstance(v, Tensor)), None)
    return [as_tensor(v, dtype) for v in values]


def each(op: Callable[..., Any], *values: Value) -> Value:
    """Apply `op` elementwise: to tensors and scalars as they are, to lists of ints one by one, broadcasting.

    >>> each(operator.mul, [2, 3], 4)
    [8, 12]
    """
    if any(is_tensor(v) for v in values):
        dtype = next((v.dtype for v in values if isinstance(v, Tensor)), None)
        return op(*(v if isinstance(v, _SCALARS) else as_tensor(v, dtype) for v in values))
    lengths = {len(v) for v in values if isinstance(v, list)}
    if not lengths:
        return op(*values)
    length = 0 if 0 in lengths else max(lengths)
    return [op(*(_item(v, i) for v in values)) for i in range(length)]


def _item(value: Value, index: int) -> Any:
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 else value[index]
