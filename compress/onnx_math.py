"""ONNX operators that compute value by value, or reduce: arithmetic, comparisons, activations, sums, norms.

A function's signature is the operator's: positional parameters are its inputs, keyword ones its attributes with their
defaults, and where an attribute became an input in a later opset the one parameter takes both. A `Literal` lists the
values that an attribute may have. `Value` takes sizes as well as tensors. What each operator means, its shapes and
types, is in the ONNX operator specification; only what departs from it or from torch is said here.
"""

import operator
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .onnx_values import Ints, Value, as_ints, as_tensor, as_tensors, each, is_tensor


def add(a: Value, b: Value) -> Value:
    return each(operator.add, a, b)


def sub(a: Value, b: Value) -> Value:
    return each(operator.sub, a, b)


def mul(a: Value, b: Value) -> Value:
    return each(operator.mul, a, b)


def div(a: Value, b: Value) -> Value:
    return each(_div, a, b)


def _div(a: Any, b: Any) -> Any:
    """Integers are divided towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if any(isinstance(v, float) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (a, b)):
        return a / b
    if any(isinstance(v, Tensor) for v in (a, b)):
        return torch.div(*as_tensors(a, b), rounding_mode="trunc")
    return a // b  # sizes under a trace are not negative


def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    if not any(isinstance(v, Tensor) for v in (a, b)):
        return each(operator.mod, a, b)
    return (torch.fmod if fmod else torch.remainder)(*as_tensors(a, b))


def power(base: Tensor, exponent: Value) -> Tensor:
    return torch.pow(base, as_tensor(exponent) if isinstance(exponent, list) else exponent).to(base.dtype)


def neg(x: Value) -> Value:
    return each(operator.neg, x)


def absolute(x: Value) -> Value:
    return each(abs, x)


def equal(a: Value, b: Value) -> Value:
    return each(operator.eq, a, b)


def greater(a: Value, b: Value) -> Value:
    return each(operator.gt, a, b)


def greater_or_equal(a: Value, b: Value) -> Value:
    return each(operator.ge, a, b)


def less(a: Value, b: Value) -> Value:
    return each(operator.lt, a, b)


def less_or_equal(a: Value, b: Value) -> Value:
    return each(operator.le, a, b)


def logical_and(a: Value, b: Value) -> Value:
    return each(operator.and_, a, b)


def logical_or(a: Value, b: Value) -> Value:
    return each(operator.or_, a, b)


def logical_xor(a: Value, b: Value) -> Value:
    return each(operator.xor, a, b)


def logical_not(x: Value) -> Value:
    return each(lambda v: ~v if isinstance(v, Tensor) else not v, x)


def where(condition: Value, x: Value, y: Value) -> Value:
    if not any(is_tensor(v) for v in (condition, x, y)):
        return each(lambda c, a, b: a if c else b, condition, x, y)
    if not any(isinstance(v, Tensor) for v in (x, y)):
        x, y = as_tensors(x, y)
    dtype = next(v.dtype for v in (x, y) if isinstance(v, Tensor))
    return torch.where(as_tensor(condition), as_tensor(x, dtype), as_tensor(y, dtype))


def maximum(*values: Value) -> Value:
    return reduce(lambda a, b: each(_max, a, b), values)


def minimum(*values: Value) -> Value:
    return reduce(lambda a, b: each(_min, a, b), values)


def _max(a: Any, b: Any) -> Any:
    tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
    return torch.maximum(*as_tensors(a, b)) if tensors else torch.sym_max(a, b)


def _min(a: Any, b: Any) -> Any:
    tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
    return torch.minimum(*as_tensors(a, b)) if tensors else torch.sym_min(a, b)


def total(*values: Value) -> Value:
    return reduce(add, values)


def average(*values: Tensor) -> Tensor:
    return reduce(operator.add, values) / len(values)


def clip(x: Value, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002 - ONNX's names
    x = as_tensor(x)
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        return x if min is None and max is None else torch.clamp(x, min, max)
    x = x if min is None else torch.maximum(x, as_tensor(min, x.dtype))
    return x if max is None else torch.minimum(x, as_tensor(max, x.dtype))


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Softmax before opset 13: over all axes from `axis` on, as one."""
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape)


def log_softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """LogSoftmax before opset 13: over all axes from `axis` on, as one."""
    return torch.log_softmax(x.flatten(axis), -1).reshape(x.shape)


def reduce_sum(x: Value, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
    return _reduce(torch.sum, x, axes, keepdims, noop_with_empty_axes)


def reduce_mean(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(torch.mean, x, axes, keepdims, noop_with_empty_axes)


def reduce_max(x: Value, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
    return _reduce(torch.amax, x, axes, keepdims, noop_with_empty_axes)


def reduce_min(x: Value, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
    return _reduce(torch.amin, x, axes, keepdims, noop_with_empty_axes)


def reduce_prod(x: Value, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
    return _reduce(_prod, x, axes, keepdims, noop_with_empty_axes)


def reduce_l1(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(torch.sum, x.abs(), axes, keepdims, noop_with_empty_axes)


def reduce_l2(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(torch.sum, x * x, axes, keepdims, noop_with_empty_axes).sqrt()


def reduce_sum_square(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(torch.sum, x * x, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return _reduce(torch.sum, x, axes, keepdims, noop_with_empty_axes).log()


def reduce_log_sum_exp(
    x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    return _reduce(torch.logsumexp, x, axes, keepdims, noop_with_empty_axes)


def _prod(x: Tensor, axes: Ints, keepdim: bool) -> Tensor:
    axes = [a % x.ndim for a in axes]
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keepdim)
    return x


_ON_SIZES = {torch.sum: operator.add, torch.amax: torch.sym_max, torch.amin: torch.sym_min, _prod: operator.mul}


def _reduce(op: Any, x: Value, axes: Ints | None, keepdims: int, noop: int) -> Value:
    axes = [] if axes is None else as_ints(axes)
    if not axes and noop:
        return x
    if isinstance(x, list) and x and op in _ON_SIZES:
        result = reduce(_ON_SIZES[op], x)
        return [result] if keepdims else result
    x = as_tensor(x)
    result = op(x, axes or list(range(x.ndim)), keepdim=bool(keepdims))
    return result.to(x.dtype)  # torch sums small integers as int64


def argmax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, x, axis, keepdims, select_last_index)


def argmin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, x, axis, keepdims, select_last_index)


def _arg(op: Any, x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    if not last:
        return op(x, axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - op(x.flip(axis), axis, keepdim=bool(keepdims))


def cumsum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    axis = as_ints(axis)[0]
    x = x.flip(axis) if reverse else x
    result = torch.cumsum(x, axis).to(x.dtype)
    result = result - x if exclusive else result
    return result.flip(axis) if reverse else result


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803 - ONNX's names
) -> Tensor:  # fmt: skip
    y = alpha * torch.matmul(a.T if transA else a, b.T if transB else b)
    return y if c is None else y + beta * c


def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *,
    axis: int = -1, epsilon: float = 1e-5, stash_type: Literal[1] = 1,
) -> Tensor:  # fmt: skip
    y = F.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return y if bias is None else y + bias


def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Literal[1] = 1) -> Tensor:
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9,
    spatial: Literal[1] = 1, training_mode: Literal[0] = 0,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: Literal[1] = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def group_norm_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:  # fmt: skip
    """GroupNormalization before opset 21: a scale and a bias for each group, not for each channel."""
    repeats = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(repeats), bias.repeat_interleave(repeats), epsilon)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)
