"""Zeros stay zeros while the rest is trained."""

import pytest
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.masks import keep_zeros
from edgepress.compress.prune import MagnitudePrune

from .quantize_check import chain, model_of, random, seeded


def test_zeros_stay_and_the_others_learn():
    model = model_of(seeded(chain(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))), x=random(4, 6))
    module = MagnitudePrune(sparsity=0.7)(model, Data()).module
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    hook = keep_zeros(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for step in range(1, 6):
        optimizer.zero_grad()
        module(random(16, 6, seed=step)).square().mean().backward()
        optimizer.step()
        hook(module, step, 5)
    for name, parameter in module.named_parameters():
        zero = (before[name] == 0) & (parameter.ndim > 1)
        assert (parameter[zero] == 0).all()
        assert not torch.equal(parameter, before[name]), "it has not learned"


def test_biases_and_weights_that_are_not_trained_yet_are_no_masks():
    module = chain(nn.Linear(3, 3))
    nn.init.zeros_(module.layer[0].weight)
    nn.init.zeros_(module.layer[0].bias)
    hook = keep_zeros(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    hook(module, 1, 1)
    assert all((parameter == 1).all() for parameter in module.parameters())


def test_the_mask_is_that_of_the_moment_it_was_made_and_fits_a_copy():
    module, other = (seeded(chain(nn.Linear(3, 3))) for _ in range(2))
    module.layer[0].weight.data[1, 2] = 0
    hook = keep_zeros(module)
    module.layer[0].weight.data[0, 0] = 0
    hook(other, 1, 1)
    assert (other.layer[0].weight == 0).nonzero().tolist() == [[1, 2]]
    with pytest.raises(AttributeError):
        hook(nn.Linear(3, 3), 1, 1)
