"""Rounding to integers against the equations, element by element, and the search against brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from edgepress.compress.weights import in_blocks, per_channel, with_scales
from edgepress.export.qtensor import QTensor
from edgepress.runtime.errors import ModelError

from .quantize_check import random

CLIPS = [1 - 0.02 * i for i in range(21)]  # the grid that the search promises
finite = st.floats(-100, 100, width=32)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=finite)
kernels = arrays.arrays(np.float32, st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), elements=finite)


def errors(q: QTensor, w: Tensor, block: int) -> list[float]:
    """The squared error of each block, in float64."""
    squares = (q.dequantize().double() - w.double()) ** 2
    return [float(part.sum()) for row in squares for part in row.split(block)]


def brute_force(values: list[float], bits: int, *, symmetric: bool, half: bool) -> float:
    """The least squared error over the grid for one block, by the equations."""
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    low, high = min(*values, 0.0), max(*values, 0.0)
    best = math.inf
    for clip in CLIPS:
        scale = clip * max(-low, high) / (middle - 0.5) if symmetric else clip * (high - low) / top
        scale = max(float(np.float16(scale)), 2.0**-24) if half else max(scale, 1e-12)
        zero = middle if symmetric else min(max(round(-clip * low / scale), 0), top)
        rounded = [min(max(round(v / scale) + zero, 0), top) for v in values]
        best = min(best, sum((scale * (q - zero) - v) ** 2 for q, v in zip(rounded, values, strict=True)))
    return best


@given(kernels, st.data(), st.sampled_from([7, 8]))
def test_per_channel_is_the_equation_for_every_channel(w: np.ndarray, data: st.DataObject, bits: int) -> None:
    axis, limit = data.draw(st.integers(0, w.ndim - 1)), 2 ** (bits - 1) - 1
    q = per_channel(torch.from_numpy(w), axis=axis, bits=bits)
    assert (q.values.dtype, q.axis, q.zero) == (torch.int8, axis, None)
    for i, channel in enumerate(np.moveaxis(w, axis, 0)):
        scale = np.float32(max(np.abs(channel).max() / np.float32(limit), np.float32(1e-12)))
        assert float(q.scale[i]) == scale
        expected = np.clip(np.round(channel / scale), -limit, limit)
        assert np.array_equal(np.moveaxis(q.values.numpy(), axis, 0)[i], expected)


@given(kernels)
def test_per_channel_is_off_by_half_a_step_at_most_and_never_uses_the_lowest_integer(w: np.ndarray) -> None:
    q = per_channel(torch.from_numpy(w))
    assert int(q.values.min()) >= -127
    off = (q.dequantize() - torch.from_numpy(w)).abs().flatten(1).amax(1)
    assert bool((off <= q.scale * 0.50001).all())


def test_a_channel_of_zeros_stays_zero() -> None:
    w = random(3, 4, 3, 3)
    w[1] = 0
    q = per_channel(w)
    assert torch.equal(q.dequantize()[1], torch.zeros(4, 3, 3))
    assert bool(torch.isfinite(q.dequantize()).all())


def test_a_scale_is_not_below_the_least() -> None:
    w = torch.tensor([[0.0, 0.0], [1.27, -0.02]])
    q = per_channel(w, least=torch.tensor([0.5, 1e-6]))
    assert q.scale.tolist() == pytest.approx([0.5, 0.01])
    assert q.values.tolist() == [[0, 0], [127, -2]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@given(w=matrices, block=st.sampled_from([16, 32]))
def test_scales_of_blocks_are_the_best_of_the_grid(
    bits: int, half: bool, symmetric: bool, w: np.ndarray, block: int
) -> None:
    tensor = torch.from_numpy(w)
    q = in_blocks(tensor, bits=bits, block=block, symmetric=symmetric, half_scales=half)
    rows = [[float(v) for v in part] for row in tensor for part in row.split(block)]
    for mine, values in zip(errors(q, tensor, block), rows, strict=True):
        best = brute_force(values, bits, symmetric=symmetric, half=half)
        assert mine <= best * 1.001 + 1e-9 * max(map(abs, values)) ** 2  # sums in float32 may choose the next best


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("half", [True, False])
@given(w=matrices)
def test_a_search_is_never_worse_than_none(half: bool, symmetric: bool, w: np.ndarray) -> None:
    tensor = torch.from_numpy(w)
    with_search, without = (
        errors(in_blocks(tensor, bits=4, block=16, symmetric=symmetric, half_scales=half, search=search), tensor, 16)
        for search in (True, False)
    )
    largest = float(tensor.abs().max())
    assert all(a <= b * 1.00001 + 1e-9 * largest**2 for a, b in zip(with_search, without, strict=True))


def test_a_search_gains_on_normal_weights() -> None:
    w = random(16, 256)
    searched, plain = (in_blocks(w, bits=4, block=256, symmetric=False, search=s) for s in (True, False))
    assert sum(errors(searched, w, 256)) < 0.9 * sum(errors(plain, w, 256))


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True), (8, False)])
@pytest.mark.parametrize(("width", "block", "groups"), [(64, 16, 4), (33, 16, 3), (10, 32, 1), (1, 16, 1)])
def test_blocks_have_their_shapes_also_at_odd_widths(
    bits: int, symmetric: bool, width: int, block: int, groups: int
) -> None:
    w = random(5, width)
    q = in_blocks(w, bits=bits, block=block, symmetric=symmetric)
    assert (q.values.shape, q.values.dtype) == (w.shape, torch.uint8)
    assert q.scale.shape == (5, groups)
    assert int(q.values.max()) < 2**bits
    assert (q.bits, q.block, q.axis) == (bits, block, None)
    if symmetric:
        assert q.zero is None
    else:
        assert q.zero is not None
        assert (q.zero.shape, q.zero.dtype) == (q.scale.shape, torch.uint8)
    worst = float((q.dequantize() - w).abs().max())
    assert worst <= 0.7 * float(w.abs().max()) / (2 ** (bits - 1) - 0.5) * (2 if bits == 4 else 1)


def test_each_block_is_alone_in_the_world() -> None:
    """However the work is cut into pieces that fit a cache, and whatever lies beside a block."""
    w = random(300, 500)
    whole = in_blocks(w, bits=4, block=16, symmetric=False)
    for row in (0, 17, 299):
        alone = in_blocks(w[row : row + 1, 496:], bits=4, block=16, symmetric=False)
        assert torch.equal(whole.values[row, 496:], alone.values[0])
        assert whole.scale[row, -1] == alone.scale[0, 0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_zero_is_exact_beside_any_values(symmetric: bool, half: bool) -> None:
    """Padding and pruned weights stay what they are; a row that is all positive reaches down to 0."""
    w = random(6, 32).abs() + 3
    w[:3, ::2], w[3] = 0, 0
    w[4] = -w[4]
    q = in_blocks(w, bits=4, block=16, symmetric=symmetric, half_scales=half)
    assert bool((q.dequantize()[w == 0] == 0).all())
    assert bool(torch.isfinite(q.dequantize()).all())


def test_float16_scales_are_those_that_the_integers_were_rounded_with() -> None:
    w = random(40, 64) * 0.03
    q = in_blocks(w, bits=8, block=16, symmetric=True, half_scales=True, search=False)
    assert q.scale.dtype == torch.float16
    scale = q.scale.float().repeat_interleave(16, 1)
    assert torch.equal(q.values.int(), (torch.round(w / scale) + 128).clamp(0, 255).int())


@pytest.mark.parametrize("layout", ["transposed", "strided", "bfloat16", "float64", "requires grad"])
def test_a_weight_may_lie_in_memory_as_it_likes(layout: str) -> None:
    w = {
        "transposed": random(48, 20).T,
        "strided": random(40, 96)[::2, ::2],
        "bfloat16": random(20, 48).bfloat16(),
        "float64": random(20, 48).double(),
        "requires grad": random(20, 48).requires_grad_(),
    }[layout]
    plain = w.detach().float().contiguous()
    assert torch.equal(per_channel(w).values, per_channel(plain).values)
    blocks = (in_blocks(v, bits=4, block=16, symmetric=False) for v in (w, plain))
    assert len({b.values.numpy().tobytes() for b in blocks}) == 1
    assert not per_channel(w).scale.requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = random(3, 32)
    w[1, 2] = bad
    with pytest.raises(ModelError, match=r"a weight \[3, 32\] holds (nan|inf); expected at most"):
        per_channel(w)
    with pytest.raises(ModelError, match="no NaN"):
        in_blocks(w, bits=4, block=16, symmetric=True)


def test_weights_too_large_for_float16_scales_are_refused() -> None:
    w = torch.full((2, 16), 1e6)
    assert in_blocks(w, bits=4, block=16, symmetric=False).dequantize().max() == pytest.approx(1e6)
    with pytest.raises(ModelError, match="holds 1e\\+06; expected at most 65504"):
        in_blocks(w, bits=4, block=16, symmetric=False, half_scales=True)


@pytest.mark.parametrize("symmetric", [True, False])
@given(w=matrices)
def test_short_scales_have_8_significant_bits_and_the_integers_are_rounded_against_them(
    symmetric: bool, w: np.ndarray
) -> None:
    tensor = torch.from_numpy(w)
    q = in_blocks(tensor, bits=4, block=16, symmetric=symmetric, short_scales=True)
    assert q.scale.dtype == torch.float32
    assert torch.equal(q.scale.bfloat16().half().float(), q.scale)
    assert bool((q.scale > 0).all())
    again = with_scales(tensor, q.scale, q.zero, bits=4, block=16)
    assert torch.equal(q.values, again.values)


def test_short_scales_cost_little() -> None:
    w = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32))
    short, long = (in_blocks(w, bits=4, block=32, symmetric=True, short_scales=short) for short in (True, False))
    assert sum(errors(short, w, 32)) <= 1.01 * sum(errors(long, w, 32))
