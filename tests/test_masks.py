"""Zeros of a pruned weight stay zeros while the rest learns."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.data import Data
from edgepress.compress.masks import keep_zeros
from edgepress.compress.train import Training, train


def test_what_was_zero_stays_zero_through_a_training():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    first, last = module[0], module[2]
    with torch.no_grad():
        first.weight[:, 2] = 0
    before = first.weight.detach().clone()
    x = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    data = Data(training=[{"x": x, "label": x.sum(1, keepdims=True)}])
    loss = lambda m, b: F.mse_loss(m(b["x"]), b["label"])  # noqa: E731
    train(module, loss, data, Training(epochs=5, rate=0.1), who="demo", after_step=keep_zeros(module))
    assert torch.equal(first.weight[:, 2], torch.zeros(6))
    assert not torch.equal(first.weight, before)
    assert bool(last.weight.all())


def test_a_bias_and_a_weight_that_begins_as_zeros_may_learn():
    module = nn.Linear(2, 2)
    nn.init.zeros_(module.bias)
    nn.init.zeros_(module.weight)
    hook = keep_zeros(module)
    with torch.no_grad():
        module.bias.fill_(1)
        module.weight.fill_(1)
    hook(module, 1, 1)
    assert bool(module.bias.all())
    assert bool(module.weight.all())
