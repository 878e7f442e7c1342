"""GPTQ against the paper's algorithm written out: one column, then the whole inverse Hessian once more."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgepress.compress.gptq import gptq, gptq_blocks
from edgepress.compress.weights import in_blocks, with_scales


def inputs(width: int, seed: int) -> np.ndarray:
    """Correlated inputs, (positions, width)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((64, width)) @ rng.standard_normal((width, width))


def slow(w: np.ndarray, c: np.ndarray, step: float, damping: float) -> np.ndarray:
    """Optimal brain quantization in column order (Frantar et al. 2023, eq. 2 and 3), with a fresh inverse each time."""
    w, h = w.copy(), c + damping * np.diag(c).mean() * np.eye(len(c))
    for j in range(w.shape[1]):
        inverse = np.linalg.inv(h[j:, j:])
        rounded = np.round(w[:, j] / step) * step
        error = (w[:, j] - rounded) / inverse[0, 0]
        w[:, j:] -= np.outer(error, inverse[0])
        w[:, j] = rounded
    return w


def nearest(step: float):
    return lambda part: lambda column, j: (column / step).round() * step


@given(st.integers(0, 10**6), st.sampled_from([4, 8, 12]), st.sampled_from([4, 5, 32]))
def test_blocks_of_columns_give_what_single_columns_give(seed: int, width: int, block: int):
    x = inputs(width, seed)
    w = np.random.default_rng(seed + 1).standard_normal((6, width))
    c = x.T @ x / len(x)
    found = gptq(torch.from_numpy(w).float(), torch.from_numpy(c), nearest(0.25), block=block, damping=0.05)
    expected = slow(w, c, 0.25, 0.05)
    # a column that lies just between two steps may be rounded either way, and all after it follow
    assert np.isclose(found.numpy(), expected, atol=1e-4).mean() > 0.7
    assert loss(found, w, x) < 1.2 * loss(torch.from_numpy(expected), w, x) + 1e-6


def loss(found: Tensor, w: np.ndarray, x: np.ndarray) -> float:
    return float((((found.numpy() - w) @ x.T) ** 2).mean())


def test_the_layers_outputs_change_less_than_when_each_weight_is_rounded_to_the_nearest():
    x = inputs(32, 0)
    w = np.random.default_rng(1).standard_normal((16, 32))
    c = torch.from_numpy(x.T @ x / len(x))
    weight = torch.from_numpy(w).float()
    found = gptq(weight, c, nearest(0.5), block=8)
    plain = (weight / 0.5).round() * 0.5
    assert loss(found, w, x) < 0.5 * loss(plain, w, x)
    assert torch.equal(found, (found / 0.5).round() * 0.5)


def test_inputs_that_have_nothing_to_do_with_each_other_leave_the_nearest():
    weight = torch.randn(4, 8)
    found = gptq(weight, torch.eye(8, dtype=torch.float64), nearest(0.25), block=4)
    torch.testing.assert_close(found, (weight / 0.25).round() * 0.25)


def test_an_input_that_was_always_0_is_rounded_to_the_nearest_and_disturbs_nobody():
    c = torch.eye(4, dtype=torch.float64)
    c[2, 2] = 0
    weight = torch.randn(3, 4)
    found = gptq(weight, c, nearest(0.25), block=4, damping=0.0)
    torch.testing.assert_close(found, (weight / 0.25).round() * 0.25)


def test_what_was_handed_in_is_not_changed():
    weight, c = torch.randn(3, 4), torch.eye(4, dtype=torch.float64)
    before = weight.clone(), c.clone()
    gptq(weight, c, nearest(0.25), block=2)
    assert torch.equal(weight, before[0])
    assert torch.equal(c, before[1])


def test_zeros_of_a_pruned_weight_stay_zeros():
    x = inputs(8, 0)
    weight = torch.randn(4, 8)
    weight[:, 1::2] = 0
    found = gptq(weight, torch.from_numpy(x.T @ x / len(x)), nearest(0.25), block=4)
    assert not found[:, 1::2].any()
    assert found[:, ::2].any()


def slow_blocks(
    w: np.ndarray, c: np.ndarray, block: int, settings: dict[str, bool | int], damping: float
) -> np.ndarray:
    """As `slow`, with the scale and zero point of each block from the weights as they are when its turn comes."""
    w, h = w.copy(), c + damping * np.diag(c).mean() * np.eye(len(c))
    for j in range(w.shape[1]):
        if j % block == 0:
            found = in_blocks(torch.from_numpy(w[:, j : j + block]).float(), block=block, **settings)  # pyright: ignore
            scale = found.scale.double().numpy()[:, 0]
            zero = np.full_like(scale, 8) if found.zero is None else found.zero.double().numpy()[:, 0]
        inverse = np.linalg.inv(h[j:, j:])
        rounded = (np.clip(np.round(w[:, j] / scale) + zero, 0, 15) - zero) * scale
        w[:, j:] -= np.outer((w[:, j] - rounded) / inverse[0, 0], inverse[0])
        w[:, j] = rounded
    return w


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [48, 40])
def test_blocks_have_the_scales_of_their_turn_and_the_papers_errors(width: int, symmetric: bool):
    x = inputs(width, 3)
    w = np.random.default_rng(4).standard_normal((12, width))
    c, settings = x.T @ x / len(x), {"bits": 4, "symmetric": symmetric}
    weight = torch.from_numpy(w).float()
    found, scale, zero = gptq_blocks(weight, torch.from_numpy(c), bits=4, block=16, symmetric=symmetric, damping=0.05)
    expected = slow_blocks(w, c, 16, settings, 0.05)
    assert np.isclose(found.numpy(), expected, atol=1e-4).mean() > 0.7  # ties may go either way, and all after follow
    assert loss(found, w, x) < 1.2 * loss(torch.from_numpy(expected), w, x)
    assert loss(found, w, x) < 0.7 * loss(in_blocks(weight, block=16, **settings).dequantize(), w, x)
    again = with_scales(found, scale, zero, bits=4, block=16)
    torch.testing.assert_close(again.dequantize(), found, rtol=1e-6, atol=0)
    assert scale.shape == (12, 3)
    assert (zero is None) == symmetric
