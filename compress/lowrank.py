"""Low rank: a weight as the product of two thin ones, `W ≈ U V`, chosen for the inputs that it will see.

    min ‖(W − U V) X‖_F  over rank k:   E[x xᵀ] + ridge = S Sᵀ,   W S = P Σ Qᵀ,   U = P_k Σ_k^½,   V = Σ_k^½ Q_kᵀ S⁻¹

S is the Cholesky factor of the inputs' second moments, so that each singular value is what its direction costs in the
output: SVD-LLM (Wang et al., ICLR 2025), after ASVD (Yuan et al. 2023). Without whitening S = I: the plain SVD of W.

    Linear (n -> m)       ->  Linear (n -> k, no bias), Linear (k -> m)
    Embedding (ids × d)   ->  Embedding (ids × k), Linear (k -> d, no bias)
    Conv2d (c -> m)       ->  Conv2d (c -> k, its kernel, stride and padding, no bias), Conv2d (k -> m, 1x1)
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from .climb import Choice, climb, ladder
from .data import Data
from .layers import find_layers, with_layers
from .moments import second_moments
from .sensitivity import Judge, spread
from .weights import finite

_KINDS = ("linear", "embedding", "conv2d")

# What is added to the diagonal of E[x xᵀ], in means of it: directions that calibration has not shown still count. Most
# ids of a vocabulary are among them, so an embedding wants more (tried on MiniLM, from 1e-6 to 10).
_RIDGE, _RIDGE_OF_IDS = 0.01, 0.3


@dataclass(frozen=True)
class Factors:
    """`W = Σ_i left_i · values_i · right_i`, float64: (m, r), (r,) from the largest down, (r, n)."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def parameters(self) -> int:
        """m·n, of the matrix as it was."""
        return len(self.left) * self.right.shape[1]

    def cost(self, rank: int) -> int:
        """`k (m + n)`: the parameters of U and V."""
        return rank * (len(self.left) + self.right.shape[1])

    def rank(self, error: float) -> int:
        """The smallest k >= 1 with `Σ_{i>k} σ_i² <= error²·Σ σ_i²`: the relative error of the layer's output."""
        squares = self.values.square()
        tail = squares.flip(0).cumsum(0).flip(0)  # tail[k]: what is lost where the first k are kept
        return max(1, int((tail > error**2 * squares.sum()).sum()))

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """U (m, k) and V (k, n); the singular values are shared out evenly between them."""
        root = self.values[:rank].sqrt()
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]


def factorize(weight: Tensor, moments: Tensor | None = None, ridge: float = 0.0) -> Factors:
    """The SVD of `weight` (m, n), whitened by `moments`: (n, n), or (n,) for a diagonal; None: the plain SVD.

    `ridge` counts in means of the diagonal. Each left vector's largest element is positive, so that the same input
    gives the same bits. Raises ModelError for a weight that is not finite.
    """
    w = finite(weight).double()
    if moments is None:
        left, values, right = torch.linalg.svd(w, full_matrices=False)
    else:
        mean = float((moments if moments.ndim == 1 else moments.diagonal()).mean())
        added = ridge * mean if mean else 1.0  # a layer that read nothing, or only zeros: the plain SVD
        if moments.ndim == 1:
            root = (moments + added).sqrt()
            left, values, right = torch.linalg.svd(w * root, full_matrices=False)
            right = right / root
        else:
            root = torch.linalg.cholesky(moments + added * torch.eye(len(moments), dtype=moments.dtype))
            left, values, right = torch.linalg.svd(w @ root, full_matrices=False)
            right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).double()
    return Factors(left * signs, values, right * signs.T)


@dataclass(frozen=True)
class LowRank:
    """Linear, Embedding and Conv2d as two thinner layers, wherever those have fewer parameters: k(m + n) < m·n.

    The rank k of each layer comes from one of four settings (none: `ratio` = 0.5):

    - `ratio`: the share of the layer's parameters that it may keep.
    - `error`: the relative error of its output, ‖(W − U V) X‖_F / ‖W X‖_F, that it may have.
    - `energy`: the share of the squared singular values that it must keep; 1 − error².
    - `rank`: the number itself.

    `sensitivity` shares the parameters that `ratio` leaves out anew: more to the layers that the outputs hang on, by
    how far they move where one layer alone is split (at a half, all and one and a half of `ratio`).

    `whiten` looks at the calibration inputs; without it X is the identity, no data is wanted, and far more is lost.
    `layers` names the kinds: `linear`, `embedding`, `conv2d`. `include` and `exclude` are shell patterns over module
    names. Convolutions in groups, and weights that several layers share, are left as they are.

    >>> LowRank(ratio=0.5, include=("*.intermediate.dense", "*.output.dense"))(model, data)
    """

    ratio: float | None = None
    error: float | None = None
    energy: float | None = None
    rank: int | None = None
    whiten: bool = True
    sensitivity: bool = False
    layers: tuple[str, ...] = ("linear", "embedding")
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = {"ratio": self.ratio, "error": self.error, "energy": self.energy}
        given = [name for name, value in (shares | {"rank": self.rank}).items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"lowrank: {' and '.join(given)} are given; expected one of them, it decides the rank")
        for name, value in shares.items():
            if value is not None and not 0 < value < 1:
                raise UsageError(f"lowrank: {name} = {value}; expected a number between 0 and 1, neither of them")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"lowrank: rank = {self.rank}; expected at least 1")
        if self.sensitivity and given and self.ratio is None:
            raise UsageError(f"lowrank: sensitivity shares out what `ratio` allows, and {given[0]} decides each rank "
                             "by itself; give ratio instead, or leave sensitivity out")  # fmt: skip
        if unknown := set(self.layers) - set(_KINDS):
            raise UsageError(f"lowrank: layers = {sorted(unknown)}; known kinds: {', '.join(_KINDS)}")

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where no layer gets smaller.

        Raises DataError where `whiten` finds no data, UnsupportedError for an embedding with `max_norm`, ModelError for
        weights that are not finite.
        """
        layers = _splittable(model.module, find_layers(model.module, self.layers, self.include, self.exclude))
        if not layers:
            return model
        moments = second_moments(model, layers, data.calibration, "lowrank with whiten") if self.whiten else {}
        split: dict[str, nn.Sequential] = {}
        others: dict[str, list[nn.Sequential]] = {}
        for name, layer in layers.items():
            ridge = _RIDGE_OF_IDS if isinstance(layer, nn.Embedding) else _RIDGE
            factors = factorize(_matrix(layer), moments.get(name), ridge)
            rank = self._rank(factors)
            split.update((name, thin) for thin in _thin(layer, factors, [rank]))
            others[name] = _thin(layer, factors, [rank // 2, rank + rank // 2]) if self.sensitivity else []
        if self.sensitivity and split:
            split = _shared(model, data, split, others)
        if not split:
            return model
        left = [name for name in layers if name not in split]
        ranks = [thin[1].get_parameter("weight").shape[1] for thin in split.values()]
        share = sum(map(_weights, split.values())) / sum(_weights(layers[name]) for name in split)
        note = f"{len(split)} layers at rank {_range(ranks)}, with {share:.0%} of their parameters"
        if left:
            reason = "by their sensitivity" if self.sensitivity else "as no such rank makes them smaller"
            note += f"; {len(left)} left whole, {reason}: {', '.join(left[:3])}{', ...' if len(left) > 3 else ''}"
        return model.then(with_layers(model.module, split), Step("lowrank", asdict(self), note))

    def _rank(self, factors: Factors) -> int:
        if self.rank is not None:
            return self.rank
        if self.error is not None:
            return factors.rank(self.error)
        if self.energy is not None:
            return factors.rank((1 - self.energy) ** 0.5)
        ratio = 0.5 if self.ratio is None else self.ratio
        return int(ratio * factors.parameters / factors.cost(1))  # 0: not even one fits


def _shared(
    model: Model, data: Data, uniform: Mapping[str, nn.Sequential], others: Mapping[str, list[nn.Sequential]]
) -> dict[str, nn.Sequential]:
    """One of its splits for each layer, or none, with no more parameters than the uniform ones have.

    What was found is held against the uniform ranks, all layers split at once; the better is returned.
    """
    judge = Judge(model, spread(list(data.calibration)))
    ladders: dict[str, list[Choice]] = {}
    room = 0
    for index, (name, thinner) in enumerate(others.items(), 1):
        data.tell(f"lowrank, sensitivity: layer {index} of {len(others)}, {name}")
        layer = model.module.get_submodule(name)
        room += _weights(uniform.get(name, layer))
        splits = [*thinner, *([uniform[name]] if name in uniform else [])]
        drops = [judge(with_layers(model.module, {name: thin}))[0] for thin in splits]
        choices = [Choice("split", _weights(t), drop, t) for t, drop in zip(splits, drops, strict=True)]
        ladders[name] = ladder([*choices, Choice("whole", _weights(layer), 0.0, layer)])
    *_, state = climb(ladders, room)
    found = {name: choice.layer for name, choice in state.items() if isinstance(choice.layer, nn.Sequential)}
    drops = [judge(with_layers(model.module, split))[0] for split in (found, uniform)]
    return found if drops[0] < drops[1] else dict(uniform)


def _splittable(module: nn.Module, found: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The layers that can be split; refuses an embedding whose rows are cut as they are read."""
    owners = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    layers: dict[str, nn.Module] = {}
    for name, layer in found.items():
        if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            raise UnsupportedError(f"lowrank: {name} cuts its rows to max_norm as they are read; exclude it")
        grouped = isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding_mode != "zeros")
        if owners[id(layer.weight)] == 1 and not grouped:
            layers[name] = layer
    return layers


def _matrix(layer: nn.Module) -> Tensor:
    """The weight as the matrix W of `W x`: an embedding's x is one-hot, a convolution's a patch."""
    assert isinstance(layer, nn.Linear | nn.Embedding | nn.Conv2d)
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, nn.Embedding) else weight.flatten(1)


def _thin(layer: nn.Module, factors: Factors, ranks: Iterable[int]) -> list[nn.Sequential]:
    """The layer split at each of these ranks that makes it smaller."""
    fits = [rank for rank in dict.fromkeys(ranks) if 0 < factors.cost(rank) < factors.parameters]
    return [_pair(layer, *factors.cut(rank)) for rank in fits]


def _pair(layer: nn.Module, u: Tensor, v: Tensor) -> nn.Sequential:
    """`U (V x)` as two layers in the place of one; U carries the bias."""
    rank = len(v)
    if isinstance(layer, nn.Embedding):
        first = nn.Embedding(layer.num_embeddings, rank, layer.padding_idx)
        second = nn.Linear(rank, layer.embedding_dim, bias=False)
        v = v.T
    elif isinstance(layer, nn.Conv2d):
        first = nn.Conv2d(layer.in_channels, rank, (layer.weight.shape[2], layer.weight.shape[3]), bias=False)
        first.stride, first.padding, first.dilation = layer.stride, layer.padding, layer.dilation
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    else:
        assert isinstance(layer, nn.Linear)
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    _fill(first, v, layer.weight)
    _fill(second, u, layer.weight)
    if second.bias is not None:
        assert isinstance(layer.bias, Tensor)
        second.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    pair = nn.Sequential(first, second)
    pair.train(layer.training)
    return pair


def _weights(layer: nn.Module) -> int:
    """How many weights a layer or its split has, biases not counted."""
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)


def _fill(layer: nn.Linear | nn.Embedding | nn.Conv2d, value: Tensor, like: Tensor) -> None:
    """Give the layer `value` as its weight, with the dtype of `like`."""
    value = value.reshape(layer.weight.shape).to(like.dtype, memory_format=torch.contiguous_format)
    layer.weight = nn.Parameter(value, like.requires_grad)


def _range(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low} to {high}"
