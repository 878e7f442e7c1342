"""Pruning for what the layers read: zeros in the weights of a transformer's layers, one layer at a time, no training.

What Wanda and SparseGPT do to one matrix is in sparsity.py, how layer follows layer in walk.py. Each layer is pruned on
what the pruned layers before it give. As with magnitude (prune.py), zeros make no engine faster; they make a download
smaller, and hardware that has 2:4 products can use them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .data import Data
from .layers import find_layers, with_layers
from .prune import zeros_note
from .sparsity import Pattern, sparsegpt, wanda
from .walk import Stop, walk

WHO = "sparse"
_METHODS = ("wanda", "sparsegpt")


@dataclass(frozen=True)
class Sparse:
    """Zeros in the Linear layers inside the layers of a transformer; tables and the head stay dense.

    `sparsity` is the share of each layer that becomes 0 (0.5 where no pattern is named); `pattern` is "n:m": n of every
    m weights in a row along the inputs stay, as "2:4"; layers whose inputs are no multiple of m stay dense. `sparsegpt`
    moves the weights that stay, in blocks of `block` columns, with `damping` of the mean squared input added; `wanda`
    moves none, needs less memory, and is faster. `include` and `exclude` are shell patterns over module names.

    >>> Sparse(method="wanda", pattern="2:4")(model, data).history[-1].note
    '50.0 % of the weights of 14 layers are 0; they save bytes of a download, no time'
    """

    method: Literal["wanda", "sparsegpt"] = "sparsegpt"
    sparsity: float | None = None
    pattern: str = ""
    block: int = 128
    damping: float = 0.01
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise UsageError(f"{WHO}: method = {self.method!r}; expected one of {', '.join(_METHODS)}")
        if self.pattern and self.sparsity is not None:
            raise UsageError(f"{WHO}: sparsity and pattern are two ways to say it; name one of them")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise UsageError(f"{WHO}: sparsity = {self.sparsity}; expected a share between 0 and 1, as 0.5")
        if self.pattern and not (re.fullmatch(r"\d+:\d+", self.pattern) and 0 < self._pattern[0] < self._pattern[1]):
            raise UsageError(f"{WHO}: pattern = {self.pattern!r}; expected n:m with 0 < n < m, as '2:4'")
        if not 0 < self.damping < float("inf"):
            raise UsageError(f"{WHO}: damping = {self.damping}; expected a number above 0, as 0.01")
        if self.block < 1 or (self.pattern and self.block % self._pattern[1]):
            expected = f"a multiple of {self._pattern[1]}" if self.pattern else "at least 1"
            raise UsageError(f"{WHO}: block = {self.block}; expected {expected}, as 128")

    @property
    def _pattern(self) -> Pattern:
        n, m = self.pattern.split(":")
        return int(n), int(m)

    @property
    def _goes(self) -> float | Pattern:
        return self._pattern if self.pattern else (0.5 if self.sparsity is None else self.sparsity)

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs calibration data. Returns the model unchanged where no weight becomes 0.

        Raises DataError without data, UnsupportedError for a model whose layers cannot be walked, UsageError for a
        pattern that fits no layer.
        """
        module = with_layers(model.module, {})
        found = find_layers(module, ["linear"], self.include, self.exclude)
        chosen: dict[str, nn.Linear] = {}
        before = 0
        for stop in walk(model, module, data.calibration, WHO):
            here = dict(self._inside(stop, found))
            before += sum(int((layer.weight == 0).sum()) for layer in here.values())
            self._prune(stop, here)
            chosen |= {f"{stop.name}.{name}": layer for name, layer in here.items()}
            data.tell(f"{WHO}: {stop.name} is done")
        weights = [layer.weight for layer in chosen.values()]
        if sum(int((weight == 0).sum()) for weight in weights) == before:
            return model
        return model.then(module, Step(WHO, asdict(self), zeros_note(weights)))

    def _inside(self, stop: Stop, found: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Linear]]:
        """The Linear layers of a layer that are pruned, by their names below it."""
        for name, layer in found.items():
            if not isinstance(layer, nn.Linear) or not name.startswith(f"{stop.name}."):
                continue
            if not self.pattern or layer.in_features % self._pattern[1] == 0:
                yield name.removeprefix(f"{stop.name}."), layer

    def _prune(self, stop: Stop, layers: Mapping[str, nn.Linear]) -> None:
        """Prune the Linear layers of one layer, in place."""
        if self.method == "wanda":
            norms = {name: torch.zeros(layer.in_features, dtype=torch.float64) for name, layer in layers.items()}
            stop.read(list(layers), lambda name, x: norms[name].add_(x.double().square().sum(0)))
            for name, layer in layers.items():
                layer.weight.data = wanda(layer.weight.detach(), norms[name].sqrt(), self._goes)
            return
        groups = {names[0]: names for names in stop.sharing(list(layers))}
        moments = {name: torch.zeros(2 * (layers[name].in_features,), dtype=torch.float64) for name in groups}
        stop.read(list(groups), lambda name, x: _add(moments[name], x.double()))
        for first, names in groups.items():
            for name in names:
                weight = layers[name].weight.detach()
                pruned = sparsegpt(weight, moments[first], self._goes, block=self.block, damping=self.damping)
                layers[name].weight.data = pruned.to(weight.dtype)


def _add(total: Tensor, x: Tensor) -> None:
    total += x.T @ x
