"""AWQ against the paper's search written out: every α, every input, one product after the other."""

import numpy as np
import torch

from edgepress.compress.awq import awq_scale, output_error, powers
from edgepress.compress.weights import in_blocks


def rounded(weight: torch.Tensor) -> torch.Tensor:
    return in_blocks(weight, bits=4, block=16, symmetric=True).dequantize()


def inputs(width: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with a few large channels, (positions, width)."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(200, width, generator=rng) @ torch.randn(width, width, generator=rng) / width**0.5
    x[:, ::8] *= 20
    return x


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.double()
    return x.T @ x / len(x), x.abs().mean(0)


def slow(weights: list[torch.Tensor], x: torch.Tensor) -> tuple[float, float]:
    """Lin et al. 2024, eq. 4 and 5: α and L(s) = ‖Q(W·diag(s))(diag(s)⁻¹·X) − WX‖², on the inputs themselves."""
    errors = {}
    for step in range(20):
        s = x.abs().mean(0) ** (step / 20)
        outputs = [((x / s) @ rounded(w * s).T, x @ w.T) for w in weights]
        errors[step / 20] = sum(float((found - wanted).square().sum(1).mean()) for found, wanted in outputs)
    alpha = min(errors, key=errors.__getitem__)
    return alpha, errors[alpha]


def test_the_scale_is_the_power_of_the_mean_input_that_the_search_over_the_inputs_finds():
    x = inputs(64)
    weights = [torch.randn(24, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    alpha, least = slow(weights, x)
    s = awq_scale(weights, *statistics(x), rounded)
    assert s is not None
    assert 0 < alpha < 1
    wanted = x.abs().mean(0) ** alpha
    np.testing.assert_allclose(s / s[0], wanted / wanted[0], rtol=1e-4)
    moments, _ = statistics(x)
    found = sum(output_error(w, rounded(w * s) / s, moments) for w in weights)
    assert abs(found - least) < 0.02 * least


def test_the_outputs_change_less_than_when_each_weight_is_rounded_to_the_nearest():
    x, fresh = inputs(64), inputs(64)[100:]
    w = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    s = awq_scale([w], *statistics(x[:100]), rounded)
    assert s is not None
    scaled, plain = ((fresh @ (other - w).T).square().mean() for other in (rounded(w * s) / s, rounded(w)))
    assert scaled < 0.7 * plain


def test_inputs_of_one_size_are_left_as_they_are():
    assert awq_scale([torch.randn(8, 32)], torch.eye(32).double(), torch.ones(32).double(), rounded) is None


def test_an_input_that_was_always_0_is_not_scaled():
    magnitudes = torch.tensor([0.0, 4.0, 1.0])
    torch.testing.assert_close(powers(magnitudes, 0.5), torch.tensor([1.0, 2.0**0.5, 0.5**0.5]))
    torch.testing.assert_close(powers(torch.zeros(2), 0.5), torch.ones(2))


def test_the_error_of_the_outputs_is_that_of_the_inputs_that_went_by():
    x, w = inputs(32), torch.randn(8, 32)
    found = output_error(w, rounded(w), statistics(x)[0])
    np.testing.assert_allclose(found, (x @ (w - rounded(w)).T).square().sum(1).mean(), rtol=1e-4)
