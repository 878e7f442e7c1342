"""Magnitude pruning: the smallest weights become 0, their tensors keep their shapes.

    W ← W ∘ [|W| > τ],     τ such that a share s of the weights goes, of all layers or of each; or given
    N:M: of m weights in a row along the inputs, the n largest stay (Mishra et al. 2021)

Han et al., NIPS 2015; here at once, little by little in gradual.py. Zeros make no engine faster: the file takes as many
bytes and as much time. They make it smaller where it is compressed, for a download. What becomes smaller and faster is
cut in structured.py.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .data import Data
from .layers import find_layers

WHO = "magnitude"


@dataclass(frozen=True)
class MagnitudePrune:
    """Zeros in the weights of Linear and convolution layers, by one of three ways.

    `sparsity` is the share that becomes 0 (0.5 where nothing is named), over all layers together (`scope` = global) or
    in each (layer). `threshold` zeroes what is not larger. `n` and `m` keep n of m weights in a row along the inputs;
    layers whose inputs are no multiple of m stay dense. `include` and `exclude` are shell patterns over module names.

    >>> MagnitudePrune(sparsity=0.8)(model, data).history[-1].note
    '80.0 % of the weights of 37 layers are 0; they save bytes of a download, no time'
    """

    sparsity: float | None = None
    threshold: float | None = None
    n: int | None = None
    m: int | None = None
    scope: Literal["global", "layer"] = "global"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.sparsity, self.threshold, self.n)) > 1:
            raise UsageError(f"{WHO}: sparsity, threshold and n:m are three ways to say it; name one of them")
        if not 0 < self.share < 1:
            raise UsageError(f"{WHO}: sparsity = {self.sparsity}; expected a share between 0 and 1, as 0.8")
        if self.threshold is not None and not 0 < self.threshold < float("inf"):
            raise UsageError(f"{WHO}: threshold = {self.threshold}; expected a number above 0")
        if (self.n, self.m) != (None, None) and not 0 < (self.n or 0) < (self.m or 0):
            raise UsageError(f"{WHO}: n = {self.n}, m = {self.m}; expected both, with 0 < n < m, as 2 of 4")
        if self.scope not in ("global", "layer"):
            raise UsageError(f"{WHO}: scope = {self.scope!r}; expected global or layer")

    @property
    def share(self) -> float:
        """The sparsity, where neither a threshold nor n:m takes its place."""
        return 0.5 if self.sparsity is None else self.sparsity

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs no data. Returns the model unchanged where no weight becomes 0.

        Raises UsageError for a pattern that fits no layer.
        """
        module = copy.deepcopy(model.module)
        weights = self.weights(module)
        before = sum(int((weight == 0).sum()) for weight in weights.values())
        self.zero(weights, self.share)
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        if zeros == before:
            return model
        return model.then(module, Step(WHO, asdict(self), self.note(module)))

    def note(self, module: nn.Module) -> str:
        """What became 0, in words."""
        return zeros_note([*self.weights(module).values()])

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The weights that may become 0, by the names of their layers, to be written into."""
        found = find_layers(module, ("linear", "conv1d", "conv2d"), self.include, self.exclude)
        return {name: layer.get_parameter("weight").detach() for name, layer in found.items()}

    def zero(self, weights: Mapping[str, Tensor], share: float) -> None:
        """Zero weights in place: this share of them, or what the threshold or n:m says."""
        if self.threshold is not None:
            for weight in weights.values():
                weight[weight.abs() <= self.threshold] = 0
        elif self.n is not None and self.m is not None:
            for weight in weights.values():
                zero_but(weight, self.n, self.m)
        elif self.scope == "layer":
            for weight in weights.values():
                zero_smallest([weight], share)
        else:
            zero_smallest([*weights.values()], share)


def zeros_note(weights: Sequence[Tensor]) -> str:
    """How many of the weights are 0, in words, and what for."""
    share = 100 * sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    return f"{share:.1f} % of the weights of {len(weights)} layers are 0; they save bytes of a download, no time"


def zero_smallest(weights: list[Tensor], share: float) -> None:
    """Zero the share of the weights with the smallest magnitude, in place, over all tensors together.

    Exactly `round(share·number)` of them; of equal ones the first.
    """
    sizes = torch.cat([weight.abs().flatten() for weight in weights]) if weights else torch.zeros(0)
    count = round(share * len(sizes))
    if not count:
        return
    limit = sizes.kthvalue(count).values
    gone = sizes < limit
    gone[(sizes == limit).nonzero().squeeze(1)[: count - int(gone.sum())]] = True
    for weight, mask in zip(weights, gone.split([weight.numel() for weight in weights]), strict=True):
        weight[mask.view(weight.shape)] = 0


def zero_but(weight: Tensor, n: int, m: int) -> None:
    """Keep the n largest of each m weights in a row along the inputs (axis 1), in place; of equal ones the first.

    A tensor whose inputs are no multiple of m stays as it is.
    """
    if weight.shape[1] % m:
        return
    rows = weight.movedim(1, -1).unflatten(-1, (-1, m))  # a view
    smallest = torch.argsort(rows.abs(), dim=-1, descending=True, stable=True)[..., n:]
    rows.scatter_(-1, smallest, 0.0)
