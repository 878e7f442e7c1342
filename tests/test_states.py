"""Hidden states and attention relations, against their equations written out."""

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress import states
from edgepress.runtime.errors import UsageError


class Attention(nn.Module):
    """A layer with queries, keys and values apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


def test_a_watch_keeps_what_parts_gave_and_lets_go_afterwards():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with states.Watch([module[0]]) as watch:
        y = module(torch.ones(1, 2))
        assert torch.equal(watch[module[0]].relu(), y)
    module(torch.ones(1, 2))
    assert not watch.seen


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"), [(3, 6, [1, 3, 5]), (2, 6, [2, 5]), (4, 6, [1, 2, 4, 5]), (6, 6, [*range(6)])]
)
def test_each_layer_learns_from_the_one_that_ends_at_the_same_depth(mine, theirs, expected):
    student = nn.ModuleList(nn.Linear(1, 1) for _ in range(mine))
    teacher = nn.ModuleList(nn.Linear(1, 1) for _ in range(theirs))
    chosen = [list(teacher).index(b) for _, b in states.pairs(student, teacher)]
    assert chosen == expected


def test_a_module_without_a_stack_is_refused():
    with pytest.raises(UsageError, match="no list of layers whose states could be compared"):
        states.layers(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no query, key and value of its own"):
        states.products(nn.Linear(2, 2))


def test_the_hidden_loss_is_the_relative_squared_error_over_tokens():
    rng = np.random.default_rng(0)
    s, t = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    held = mask.astype(bool)
    expected = ((s - t)[held] ** 2).sum() / (t[held] ** 2).sum()
    found = states.hidden_loss(torch.from_numpy(s), torch.from_numpy(t), nn.Identity(), torch.from_numpy(mask))
    np.testing.assert_allclose(found.item(), expected)


def test_images_are_compared_along_their_channels():
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    project = nn.Linear(3, 5, bias=False)
    expected = (torch.einsum("oc,nchw->nohw", project.weight, s) - t).square().sum() / t.square().sum()
    torch.testing.assert_close(states.hidden_loss(s, t, project, None), expected)
    assert (states.width(s), states.width(t[..., 0])) == (3, 4)


def test_the_relation_loss_is_the_mean_divergence_of_the_tokens_relations():
    rng = np.random.default_rng(0)
    heads, mask = 2, np.array([[1, 1, 1], [1, 1, 0]])
    s, t = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 8))
    total, rows = 0.0, 0
    for sample in range(2):
        for head in range(heads):
            relations = []
            for state in (s, t):
                size = state.shape[-1] // heads
                part = state[sample, mask[sample] == 1, head * size : (head + 1) * size]
                scores = np.exp(part @ part.T / np.sqrt(size))
                relations.append(scores / scores.sum(-1, keepdims=True))
            q, p = relations
            total += (p * np.log(p / q)).sum()
            rows += len(p)
    found = states.relation_loss(torch.from_numpy(s), torch.from_numpy(t), heads, torch.from_numpy(mask))
    np.testing.assert_allclose(found.item(), total / rows, rtol=1e-9)


def test_relation_heads_that_do_not_divide_a_width_are_refused():
    x = torch.ones(1, 2, 6)
    with pytest.raises(UsageError, match="relation_heads = 4 does not divide a width of 6"):
        states.relation_loss(x, x, 4, None)


def test_queries_keys_and_values_are_found_in_their_order():
    layer = Attention(4)
    assert states.products(layer) == [layer.query, layer.key, layer.value]
