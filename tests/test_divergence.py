"""KL, agreement and perplexity are those of their definitions, whatever computes the logits."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.divergence import divergence
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError


class Table(nn.Module):
    """The logits of the next token are a row of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]


def model(seed: int, size: int = 11) -> Model:
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return Model("table", Table(table), {"input_ids": torch.zeros(2, 4, dtype=torch.long)}, ("logits",), {})


def session(made: Model):
    return lambda **inputs: {"logits": made(input_ids=torch.from_numpy(inputs["input_ids"]))["logits"].numpy()}


WINDOWS = [{"input_ids": np.random.default_rng(i).integers(0, 11, (1, 40))} for i in range(3)]


def test_the_figures_are_those_of_their_definitions():
    one, other = model(0), model(1)
    found = divergence(one, WINDOWS)(session(other))  # pyright: ignore[reportArgumentType]
    agreed, kl, surprise = [], [], []
    for window in WINDOWS:
        (ids,) = window["input_ids"]
        for i, token in enumerate(ids):
            rows = [m.module.table[token].detach().double().numpy() for m in (one, other)]  # pyright: ignore
            p, q = (np.exp(row) / np.exp(row).sum() for row in rows)
            agreed.append(p.argmax() == q.argmax())
            kl.append(sum(p * np.log(p / q)))
            if i + 1 < len(ids):
                surprise.append(-np.log(q[ids[i + 1]]))
    expected = {"top1": np.mean(agreed), "kl": np.mean(kl), "perplexity": np.exp(np.mean(surprise))}
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == ["top1", "kl", "perplexity"], "the first is what a budget's drop is about"


def test_the_original_agrees_with_itself():
    found = divergence(model(0), WINDOWS)(session(model(0)))  # pyright: ignore[reportArgumentType]
    assert (found["top1"], found["kl"]) == (1.0, 0.0)


def test_windows_of_one_token_have_no_perplexity():
    short = [{"input_ids": np.array([[3]])}]
    assert "perplexity" not in divergence(model(0), short)(session(model(1)))  # pyright: ignore[reportArgumentType]


def test_nothing_to_compare_on_and_an_original_that_is_not_finite_are_told():
    with pytest.raises(DataError, match="divergence needs text to compare on and got none; bring --data"):
        divergence(model(0), [])
    broken = model(0)
    broken.module.table.data[:] = torch.nan  # pyright: ignore
    with pytest.raises(DataError, match="the original model gives NaN or infinity at 'logits'"):
        divergence(broken, WINDOWS)(session(model(1)))  # pyright: ignore[reportArgumentType]
