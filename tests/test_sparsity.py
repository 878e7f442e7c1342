"""Wanda and SparseGPT against the papers' equations written out: one weight at a time, a fresh inverse each time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.sparsity import Pattern, smallest_but, sparsegpt, wanda


def problem(rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (rows, width) and correlated inputs (64, width)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((64, width)) @ rng.standard_normal((width, width))
    return rng.standard_normal((rows, width)), x


def slow_wanda(w: np.ndarray, x: np.ndarray, goes: float | Pattern) -> np.ndarray:
    """S_ij = |W_ij|·‖X_j‖₂ (Sun et al. 2023, eq. 1), compared within a row, or within m weights of it."""
    result = w.copy()
    for i, row in enumerate(w):
        scores = [abs(value) * np.sqrt((x[:, j] ** 2).sum()) for j, value in enumerate(row)]
        n, m = goes if isinstance(goes, tuple) else (len(row) - round(goes * len(row)), len(row))
        for start in range(0, len(row), m):
            for j in sorted(range(start, start + m), key=lambda j: scores[j])[: m - n]:
                result[i, j] = 0
    return result


def slow_sparsegpt(w: np.ndarray, x: np.ndarray, goes: float | Pattern, block: int, damping: float) -> np.ndarray:
    """Frantar & Alistarh 2023, eq. 3 and 5: ε = w_j²/[H_j⁻¹]_00, w ← w − w_j/[H_j⁻¹]_00·H_j⁻¹[:, 0], row by row.

    H_j is the Hessian of the columns from j on, inverted anew for each.
    """
    w, h = w.copy(), x.T @ x / len(x)
    h += damping * np.diag(h).mean() * np.eye(len(h))
    inverses = [np.linalg.inv(h[j:, j:]) for j in range(len(h))]
    gone = np.zeros(w.shape, bool)
    chunk = goes[1] if isinstance(goes, tuple) else block
    for j in range(w.shape[1]):
        if j % chunk == 0:  # the mask of the next columns is chosen as the weights are by now
            columns = range(j, min(j + chunk, w.shape[1]))
            error = np.array([[w[i, k] ** 2 / inverses[k][0, 0] for k in columns] for i in range(len(w))])
            if isinstance(goes, tuple):
                for i, row in enumerate(error):
                    gone[i, [columns[k] for k in np.argsort(row)[: goes[1] - goes[0]]]] = True
            else:
                for index in np.argsort(error, axis=None)[: round(goes * error.size)]:
                    gone[index // len(columns), columns[index % len(columns)]] = True
        for i in range(len(w)):
            if gone[i, j]:
                w[i, j:] -= w[i, j] / inverses[j][0, 0] * inverses[j][0]
                w[i, j] = 0
    return w


WAYS = st.sampled_from([0.25, 0.5, 0.8, (2, 4), (1, 4)])


@given(st.integers(0, 10**6), WAYS)
def test_wanda_is_the_papers_equation(seed: int, goes: float | Pattern):
    w, x = problem(5, 16, seed)
    found = wanda(torch.from_numpy(w), torch.from_numpy(x).norm(dim=0), goes)
    assert np.array_equal(found.numpy(), slow_wanda(w, x, goes))


@given(st.integers(0, 10**6), WAYS, st.sampled_from([4, 8, 16, 128]))
def test_sparsegpt_is_the_papers_equation(seed: int, goes: float | Pattern, block: int):
    w, x = problem(5, 16, seed)
    c = torch.from_numpy(x.T @ x / len(x))
    found = sparsegpt(torch.from_numpy(w), c, goes, block=block, damping=0.05).numpy()
    expected = slow_sparsegpt(w, x, goes, block, 0.05)
    assert np.array_equal(found == 0, expected == 0)
    assert np.allclose(found, expected, atol=1e-4)


def test_each_method_loses_less_of_the_output_than_the_one_before():
    w, x = problem(16, 64, 3)
    weight, inputs = torch.from_numpy(w).float(), torch.from_numpy(x).float()
    norms, c = inputs.norm(dim=0), (inputs.T @ inputs / len(inputs)).double()
    ways = [wanda(weight, torch.ones(64), 0.5), wanda(weight, norms, 0.5), sparsegpt(weight, c, 0.5)]
    errors = [float((inputs @ (weight - way).T).square().sum()) for way in ways]
    assert errors == sorted(errors, reverse=True)
    assert [int((way == 0).sum()) for way in ways] == [512, 512, 512]


@pytest.mark.parametrize("goes", [0.25, (2, 4)])
def test_what_was_zero_stays_zero_and_counts(goes: float | Pattern):
    w, x = problem(8, 16, 1)
    w[:, ::4] = 0
    c = torch.from_numpy(x.T @ x / len(x))
    found = [wanda(torch.from_numpy(w), torch.from_numpy(x).norm(dim=0), goes), sparsegpt(torch.from_numpy(w), c, goes)]
    for result in found:
        assert not result[:, ::4].any()
        assert int((result == 0).sum()) == (32 if goes == 0.25 else 64)


def test_an_input_that_was_always_zero_does_no_harm():
    w, x = problem(4, 8, 2)
    x[:, 3] = 0
    found = sparsegpt(torch.from_numpy(w), torch.from_numpy(x.T @ x / len(x)), 0.5)
    assert torch.isfinite(found).all()


def test_of_equal_scores_the_first_stay():
    assert smallest_but(torch.ones(1, 8), (2, 4)).tolist() == [[False, False, True, True] * 2]
