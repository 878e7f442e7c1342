"""ONNX operators that move values and compute sizes: Shape, Reshape, Slice, Gather, Concat, Pad and their like.

The signatures follow the rule of `onnx_math`. Sizes stay Python ints from Shape to Reshape, so free axes stay free.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.errors import UnsupportedError
from .onnx_file import DTYPES
from .onnx_values import Ints, Value, as_ints, as_tensor, as_tensors, is_tensor


def identity(x: Value) -> Value:
    return x


def dropout(x: Tensor, ratio: Value = 0.5, training_mode: Value = False, *, seed: int = 0) -> Tensor:
    """What inference does: nothing."""
    if training_mode is not False:
        raise UnsupportedError("Dropout in training mode; export the model in evaluation mode")
    return x


def shape(x: Value, *, start: int = 0, end: int | None = None) -> list[Any]:
    sizes = list(x.shape) if isinstance(x, Tensor) else [len(x)] if isinstance(x, list) else []
    return sizes[start:end]


def size(x: Value) -> Any:
    return math.prod(shape(x))


def cast(x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    if to not in DTYPES:
        raise UnsupportedError(f"a Cast to ONNX type {to}; bring the float file")
    dtype = DTYPES[to]
    if not is_tensor(x) and dtype in (torch.int32, torch.int64):
        return [int(v) if isinstance(v, bool) else v for v in x] if isinstance(x, list) else x
    return as_tensor(x, None if is_tensor(x) else dtype).to(dtype)


def cast_like(x: Value, target: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return as_tensor(x).to(target.dtype)


def reshape(x: Value, shape: Ints, *, allowzero: int = 0) -> Value:
    shape = as_ints(shape)
    if not is_tensor(x):
        flat = as_ints(x)
        if shape in ([-1], [len(flat)]):
            return flat
        if not shape:
            return flat[0]
    x = as_tensor(x)
    if not allowzero:
        shape = [x.shape[i] if isinstance(s, int) and s == 0 else s for i, s in enumerate(shape)]
    return x.reshape(shape)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    return x.permute(perm if perm is not None else tuple(reversed(range(x.ndim))))


def squeeze(x: Value, axes: Ints | None = None) -> Value:
    if isinstance(x, list) and len(x) == 1:
        return x[0]
    x = as_tensor(x)
    return x.squeeze() if axes is None else x.squeeze(tuple(as_ints(axes)))


def unsqueeze(x: Value, axes: Ints) -> Value:
    axes = as_ints(axes)
    if not is_tensor(x) and not isinstance(x, list) and len(axes) == 1:
        return [x]
    x = as_tensor(x)
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def concat(*values: Value, axis: int) -> Value:
    if any(is_tensor(v) for v in values):
        return torch.cat(as_tensors(*values), axis)
    return [item for value in values for item in value]


def split(x: Value, split: Ints | None = None, *, axis: int = 0, num_outputs: int = 1) -> tuple[Value, ...]:
    """`num_outputs` is the node's; without `split` the parts are equal, the last one smaller where they cannot be."""
    length = len(x) if isinstance(x, list) else x.shape[axis]
    part = -(-length // num_outputs)
    equal = [part] * (num_outputs - 1) + [length - part * (num_outputs - 1)]
    sizes = equal if split is None else as_ints(split)
    if isinstance(x, list):
        return tuple(x[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes)))
    return tuple(torch.split(x, sizes, axis))


def slice_(x: Value, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Value:
    starts, ends = as_ints(starts), as_ints(ends)
    axes = list(range(len(starts))) if axes is None else as_ints(axes)
    steps = [1] * len(starts) if steps is None else as_ints(steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _slice(x, axis, start, end, step)
    return x


def _slice(x: Value, axis: int, start: Any, end: Any, step: int) -> Value:
    if isinstance(x, list):
        return x[start:end:step]
    if step > 0:
        return x[(*[slice(None)] * (axis % x.ndim), slice(start, end, step))]
    length = x.shape[axis]  # torch has no negative steps: walk the mirrored axis
    return _slice(x.flip(axis), axis, _mirror(start, length), _mirror(end, length), -step)


def _mirror(index: Any, length: Any) -> Any:
    return torch.sym_max(length - 1 - index if index >= 0 else -1 - index, 0)


def gather(x: Value, indices: Value, *, axis: int = 0) -> Value:
    if not is_tensor(x) and not is_tensor(indices):
        return [x[i] for i in indices] if isinstance(indices, list) else x[indices]
    x = as_tensor(x)
    if isinstance(indices, list):
        indices = as_tensor(indices)
    if not isinstance(indices, Tensor):
        return x.select(axis, indices)
    return x[(*[slice(None)] * (axis % x.ndim), indices.long())]


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _from_start(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    lead = indices.ndim - 1
    batch = []  # for each batch axis the positions along it, shaped to broadcast against the indices
    for axis in range(batch_dims):
        positions = torch.arange(x.shape[axis], device=x.device)
        batch.append(positions.reshape([-1 if i == axis else 1 for i in range(lead)]))
    return x[(*batch, *indices.unbind(-1))]


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0,
                     reduction: Literal["none"] = "none") -> Tensor:  # fmt: skip
    return torch.scatter(x, axis, _from_start(indices, x.shape[axis]), updates)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Literal["none"] = "none") -> Tensor:
    return x.index_put(indices.unbind(-1), updates)


def _from_start(indices: Tensor, length: Any) -> Tensor:
    """Indices from the end, which torch's gather does not know, as indices from the start."""
    return torch.where(indices < 0, indices + length, indices).long()


def expand(x: Value, shape: Ints) -> Tensor:
    """Broadcasting goes both ways: a 1 in `shape` keeps what `x` has there."""
    x = as_tensor(x)
    shape = as_ints(shape)
    rank = max(len(shape), x.ndim)
    have, want = [1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(shape)) + list(shape)
    return x.expand([h if isinstance(w, int) and w == 1 else w for h, w in zip(have, want, strict=True)])


def tile(x: Value, repeats: Ints) -> Value:
    if isinstance(x, list):
        return x * as_ints(repeats)[0]
    return as_tensor(x).repeat(as_ints(repeats))


def constant_of_shape(shape: Ints, *, value: Tensor | None = None) -> Value:
    shape = as_ints(shape)
    value = torch.zeros(1) if value is None else value
    if isinstance(value, list) and len(shape) == 1 and isinstance(shape[0], int):
        return value * shape[0]
    return as_tensor(value).reshape(()).expand(shape)


def arange(start: Value, limit: Value, delta: Value) -> Tensor:
    numbers = (start, limit, delta)
    dtype = next((v.dtype for v in numbers if isinstance(v, Tensor)), None)
    return torch.arange(*(v.item() if isinstance(v, Tensor) else v for v in numbers), dtype=dtype)


def trilu(x: Tensor, k: int = 0, *, upper: int = 1) -> Tensor:
    return (torch.triu if upper else torch.tril)(x, as_ints(k)[0])


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (rows[:, None] + k == columns).to(x.dtype if dtype is None else DTYPES[dtype])


def top_k(x: Tensor, k: int, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Of equal values torch may take others than ONNX Runtime does."""
    values, indices = torch.topk(x, as_ints(k)[0], axis, bool(largest), bool(sorted))
    return values, indices


def pad(
    x: Tensor, pads: Ints, value: float | None = None, axes: Ints | None = None, *,
    mode: Literal["constant", "reflect", "edge"] = "constant",
) -> Tensor:  # fmt: skip
    pads = as_ints(pads)
    axes = list(range(x.ndim)) if axes is None else [a % x.ndim for a in as_ints(axes)]
    sides: list[Any] = [0] * (2 * x.ndim)  # torch's order: the last axis first, its begin and end together
    for i, axis in enumerate(axes):
        sides[2 * (x.ndim - 1 - axis) : 2 * (x.ndim - axis)] = pads[i], pads[i + len(axes)]
    while len(sides) > 2 and all(isinstance(s, int) and s == 0 for s in sides[-2:]):
        sides = sides[:-2]
    if isinstance(value, list):
        value = value[0]
    if isinstance(value, Tensor):
        return torch.where(F.pad(torch.ones_like(x), sides) == 1, F.pad(x, sides), value)
    if mode == "constant":
        return F.pad(x, sides, value=0.0 if value is None else value)
    return F.pad(x, sides, mode="replicate" if mode == "edge" else mode)


def depth_to_space(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    x = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
