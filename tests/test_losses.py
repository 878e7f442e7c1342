"""Losses of distillation, against their equations written out."""

import numpy as np
import torch

from edgepress.compress.losses import cosine_distance, length_error, soft_cross_entropy


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_soft_cross_entropy_is_the_divergence_at_a_temperature():
    rng = np.random.default_rng(0)
    s, t, temperature = rng.standard_normal((5, 7)), rng.standard_normal((5, 7)), 3.0
    p, q = softmax(t / temperature), softmax(s / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(-1).mean()
    found = soft_cross_entropy(torch.from_numpy(s), torch.from_numpy(t), temperature)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)


def test_the_gradient_of_the_temperature_is_that_of_the_logits_for_high_ones():
    """Hinton et al. 2015, eq. 4: at a high temperature dL/ds -> (s − t)/N for zero-mean logits, whatever T is."""
    s = torch.tensor([[0.3, -0.1, -0.2]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[0.5, 0.1, -0.6]], dtype=torch.float64)
    soft_cross_entropy(s, t, 1e4).backward()
    assert s.grad is not None
    torch.testing.assert_close(s.grad, (s - t).detach() / 3, rtol=1e-3, atol=1e-6)


def test_cosine_distance_is_0_for_a_multiple_and_2_for_the_opposite():
    x = torch.randn(4, 6, dtype=torch.float64)
    assert cosine_distance(3 * x, x).item() < 1e-12
    assert abs(cosine_distance(-x, x).item() - 2) < 1e-12


def test_length_error_is_0_for_any_direction_of_the_same_length():
    x = torch.randn(4, 6, dtype=torch.float64)
    assert length_error(-x, x).item() < 1e-12
    assert abs(length_error(3 * x, x).item() - 4) < 1e-12
    assert torch.isfinite(length_error(x, 0 * x))


def test_a_number_a_sample_is_an_embedding_too():
    x = torch.tensor([1.0, -2.0])
    assert abs(cosine_distance(-x, x).item() - 2) < 1e-6
    assert abs(length_error(torch.tensor([2.0, 2.0]), x).item() - 1 / 5) < 1e-6
