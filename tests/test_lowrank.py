"""Low rank: the whitened SVD against the best that any matrix of that rank can do, and what the pass makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.layers import find_layers
from edgepress.compress.lowrank import LowRank, factorize
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.sensitivity import Judge, stored_bytes
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, ModelError, UnsupportedError, UsageError

from .quantize_check import chain, data_of, largest_difference, model_of, random, run, run_file, seeded

shapes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))


def inputs(n: int, seed: int) -> Tensor:
    """(n, 40): correlated, some directions far larger than others."""
    return (random(n, n, seed=seed) * torch.logspace(0, -2, n) @ random(n, 40, seed=seed + 1)).double()


def least_error(w: np.ndarray, x: np.ndarray, rank: int) -> float:
    """min ‖(W − Ŵ)X‖_F, solved directly: no matrix of rank k is nearer to W X than its own SVD cut at k (Eckart and
    Young), and Ŵ = P_k P_kᵀ W reaches it, P the left singular vectors of W X."""
    p = np.linalg.svd(w @ x, full_matrices=False)[0][:, :rank]
    return float(np.linalg.norm((w - p @ p.T @ w) @ x))


@given(shapes, st.integers(1, 8))
def test_whitened_factors_are_as_near_as_any_matrix_of_their_rank(shape: tuple[int, int, int], rank: int):
    m, n, seed = shape
    rank = min(rank, m, n)
    w, x = random(m, n, seed=seed).double(), inputs(n, seed)
    u, v = factorize(w, x @ x.T / x.shape[1]).cut(rank)
    assert u.shape == (m, rank)
    assert v.shape == (rank, n)
    least = least_error(w.float().double().numpy(), x.numpy(), rank)
    assert float(((w.float() - u @ v) @ x).norm()) <= least + 1e-5 * float((w @ x).norm())


@given(shapes)
def test_full_rank_reproduces_the_layer(shape: tuple[int, int, int]):
    m, n, seed = shape
    w, x = random(m, n, seed=seed), inputs(n, seed)
    for moments in (None, x @ x.T / 40, torch.linspace(0, 1, n).double()):
        u, v = factorize(w, moments, 0.01).cut(min(m, n))
        assert largest_difference(u.float() @ v.float(), w) < 1e-5


@given(shapes)
def test_a_diagonal_is_whitened_as_the_full_matrix_is(shape: tuple[int, int, int]):
    m, n, seed = shape
    w, diagonal = random(m, n, seed=seed), random(n, seed=seed).double().abs() + 0.1
    one, other = factorize(w, diagonal, 0.1), factorize(w, diagonal.diag(), 0.1)
    assert torch.allclose(one.values, other.values)
    u, v = one.cut(1)
    p, q = other.cut(1)
    assert largest_difference(u @ v, p @ q) < 1e-4 * float(w.abs().max()) / float(1 - one.values[1] / one.values[0])


@given(shapes, st.floats(0.01, 0.99))
def test_the_rank_of_an_error_is_the_smallest_that_keeps_it(shape: tuple[int, int, int], error: float):
    m, n, seed = shape
    w, x = random(m, n, seed=seed), inputs(n, seed)
    factors = factorize(w, x @ x.T / 40)
    rank = factors.rank(error)
    y = w.double() @ x

    def found(k: int) -> float:
        u, v = factors.cut(k)
        return float((y - u @ (v @ x)).norm() / y.norm())

    assert found(rank) <= error + 1e-6
    assert rank == 1 or found(rank - 1) > error - 1e-6


def test_singular_vectors_have_signs_of_their_own():
    w = random(5, 4)
    left = factorize(w).left
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()
    assert torch.equal(factorize(-w).left, left), "the sign of W goes into the right vectors"


class Bag(nn.Module):
    """Mean of embedded ids, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32, padding_idx=0)
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(self.table(ids).mean(1))))


@pytest.fixture
def model() -> Model:
    example = {"ids": torch.from_numpy(np.random.default_rng(0).integers(0, 50, (4, 7)))}
    return Model("bag", seeded(Bag()).eval(), example, ("y",), {"ids": {0: "batch", 1: "sequence"}})


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(1)
    return Data(calibration=[{"ids": rng.integers(0, 50, (8, 7))} for _ in range(3)])


def test_a_layer_becomes_two_thinner_ones_wherever_that_is_smaller(model: Model, data: Data):
    result = LowRank(ratio=0.5)(model, data)
    shapes = {name: tuple(p.shape) for name, p in result.module.named_parameters()}
    assert shapes == {
        "table.0.weight": (50, 9),  # k = ½·50·32 / (50 + 32)
        "table.1.weight": (32, 9),
        "first.0.weight": (9, 32),
        "first.1.weight": (48, 9),
        "first.1.bias": (48,),
        "second.weight": (2, 48),
        "second.bias": (2,),
    }
    note = result.history[-1].note
    assert note.startswith("2 layers at rank 9, with 46% of their parameters; 1 left whole")
    assert note.endswith("makes them smaller: second")
    assert type(model.module.get_submodule("first")) is nn.Linear, "the model that was handed in has changed"


def test_whitening_loses_less_on_what_the_layers_read():
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    x = random(200, 24) * torch.logspace(0, -1.5, 24)
    model = model_of(chain(layer), x=x[:2])
    error = {}
    for whiten in (True, False):
        split = LowRank(rank=6, whiten=whiten)(model, data_of({"x": x}) if whiten else Data())
        error[whiten] = float(np.linalg.norm(run(split, x=x) - run(model, x=x)))
    assert error[True] < 0.7 * error[False]


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_becomes_a_thinner_one_and_a_1x1(tmp_path: Path, padding, dilation):
    torch.manual_seed(0)
    thin = nn.Conv2d(8, 3, 3, padding=padding, dilation=dilation, bias=False)
    with torch.no_grad():  # a weight of rank 3 loses nothing at rank 3
        layer = nn.Conv2d(8, 12, 3, padding=padding, dilation=dilation)
        layer.weight.copy_((random(12, 3) @ thin.weight.flatten(1)).view_as(layer.weight))
    x = random(2, 8, 9, 9)
    model = model_of(chain(layer), x=x)
    result = LowRank(error=0.001, layers=("conv2d",))(model, data_of({"x": x}))
    assert [tuple(p.shape) for p in result.module.parameters()] == [(3, 8, 3, 3), (12, 3, 1, 1), (12,)]
    assert largest_difference(run(result, x=x), run(model, x=x)) < 1e-4
    assert largest_difference(run_file(result, tmp_path, x=x), run(result, x=x)) < 1e-5


def test_the_same_input_gives_the_same_bits(model: Model, data: Data):
    one, other = (LowRank(energy=0.6)(model, data).module.state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_later_passes_find_the_thin_layers_and_the_file_computes_the_same(model: Model, data: Data, tmp_path: Path):
    split = LowRank(ratio=0.5)(model, data)
    found = find_layers(split.module, ["linear", "embedding"])
    assert list(found) == ["table.0", "table.1", "first.0", "first.1", "second"]
    whole = WeightOnly(layers=("embedding",), block=16)(DynamicInt8(smooth=0.0, reduce_range=True)(split, data), data)
    ids = model.example["ids"]
    expected = run(whole, ids=ids)
    assert largest_difference(run_file(whole, tmp_path, ids=ids), expected) < 0.02 * np.abs(expected).max()
    assert largest_difference(run_file(split, tmp_path, ids=ids), run(split, ids=ids)) < 1e-5


def test_a_layer_that_was_never_run_is_split_as_it_stands(data: Data, model: Model):
    model.module.register_module("idle", nn.Linear(20, 20))
    result = LowRank(rank=2, include=("idle",))(model, data)
    plain = LowRank(rank=2, include=("idle",), whiten=False)(model, Data())
    assert torch.equal(result.module.get_parameter("idle.0.weight"), plain.module.get_parameter("idle.0.weight"))


def test_what_cannot_get_smaller_comes_back_as_it_is(model: Model):
    assert LowRank(rank=40, whiten=False)(model, Data()) is model
    assert LowRank(ratio=0.01, whiten=False)(model, Data()) is model, "not even rank 1 fits into that"
    grouped = model_of(chain(nn.Conv2d(8, 8, 3, groups=2)), x=random(2, 8, 5, 5))
    assert LowRank(rank=1, layers=("conv2d",), whiten=False)(grouped, Data()) is grouped
    plain = model_of(nn.ReLU(), input=random(2, 3))
    assert LowRank()(plain, Data()) is plain


def test_layers_that_share_a_weight_keep_sharing_it():
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    model = model_of(chain(first, second), x=random(2, 16))
    assert LowRank(rank=1, whiten=False)(model, Data()) is model


@pytest.mark.parametrize("share", ["ratio", "error", "energy"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_of_nothing_or_all_is_refused(share: str, value: float):
    with pytest.raises(UsageError, match=f"lowrank: {share} = .*; expected a number between 0 and 1"):
        LowRank(**{share: value})  # pyright: ignore[reportArgumentType]


def test_settings_that_cannot_be_right_are_refused():
    with pytest.raises(UsageError, match="ratio and rank are given; expected one of them"):
        LowRank(ratio=0.5, rank=3)
    with pytest.raises(UsageError, match="rank = 0; expected at least 1"):
        LowRank(rank=0)
    with pytest.raises(UsageError, match=r"layers = \['conv'\]; known kinds: linear, embedding, conv2d"):
        LowRank(layers=("conv",))


def test_a_pattern_that_fits_nothing_missing_data_and_bad_weights_are_told(model: Model):
    with pytest.raises(UsageError, match="fits no linear or embedding layer"):
        LowRank(include=("nowhere",))(model, Data())
    with pytest.raises(DataError, match="lowrank with whiten needs calibration data"):
        LowRank()(model, Data())
    cut = model_of(chain(nn.Embedding(20, 20, max_norm=1.0)), x=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UnsupportedError, match="max_norm"):
        LowRank(whiten=False)(cut, Data())
    with torch.no_grad():
        model.module.get_parameter("first.weight")[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        LowRank(whiten=False)(model, Data())


def test_sensitivity_leaves_more_to_the_layers_that_the_outputs_hang_on() -> None:
    """Of two layers of one shape, the second one's weight is almost of rank 2: the first keeps the parameters."""
    first, second = seeded(nn.Linear(16, 16), 0), seeded(nn.Linear(16, 16), 1)
    with torch.no_grad():
        second.weight.copy_(random(16, 2, seed=2) @ random(2, 16, seed=3) + 1e-4 * second.weight)
    model = model_of(chain(first, second), x=random(32, 16))
    data = data_of(model.example)
    uniform, shared = (LowRank(ratio=0.5, sensitivity=on)(model, data) for on in (False, True))
    drops = [Judge(model, [dict(batch) for batch in data.calibration])(one.module)[0] for one in (uniform, shared)]
    assert drops[1] < 0.7 * drops[0]
    assert ranks_of(uniform) == [4, 4]
    first_rank, second_rank = ranks_of(shared)
    assert first_rank > 4 > second_rank
    assert first_rank + second_rank <= 8
    assert ranks_of(LowRank(ratio=0.5, sensitivity=True)(model, data)) == [first_rank, second_rank]


def test_sensitivity_never_ends_worse_than_uniform_ranks_nor_larger(model: Model, data: Data) -> None:
    uniform, shared = (LowRank(ratio=0.5, sensitivity=on)(model, data) for on in (False, True))
    judge = Judge(model, list(data.calibration))
    assert judge(shared.module)[0] <= judge(uniform.module)[0]
    assert stored_bytes(shared.module) <= stored_bytes(uniform.module)


def test_sensitivity_shares_out_a_ratio_only() -> None:
    with pytest.raises(UsageError, match="rank decides each rank by itself; give ratio instead"):
        LowRank(rank=4, sensitivity=True)


def ranks_of(model: Model) -> list[int]:
    """The rank of each pair of thin linear layers."""
    pairs = [part for part in model.module.modules() if isinstance(part, nn.Sequential) and len(part) == 2]
    return [first.weight.shape[0] for first, second in pairs if {type(first), type(second)} == {nn.Linear}]
