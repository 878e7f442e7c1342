"""What Linear layers read: of each tensor the second moments, one layer of a transformer after the other.

    C = E[x xᵀ],   m_j = E|x_j|        over all inputs x, padding left out

A transformer is walked (walk.py), and a layer reads what those before it give as they are by then. Other networks, and
what lies outside of the walk, are read by hooks, in one run of all batches. Layers that read the same tensor, as
queries, keys and values do, come together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError, UnsupportedError
from .calibration import calibrate
from .data import Batch
from .importance import reading, samples
from .smooth import disjoint
from .walk import Stop, walk


@dataclass
class Sums:
    """What is summed of the vectors that go by, each (width,)."""

    products: Tensor
    magnitudes: Tensor
    count: int = 0

    def add(self, x: Tensor) -> None:
        """x: (n, width)."""
        rows = x.double()
        self.products += rows.T @ rows
        self.magnitudes += rows.abs().sum(0)
        self.count += len(rows)


@dataclass(frozen=True)
class Readers:
    """Linear layers that read the same tensor, by name; they may be changed in place.

    `moments` is C, float64 (in, in), and `magnitudes` m, float64 (in,); both are 0 where the layers never ran.
    """

    layers: Mapping[str, nn.Linear]
    moments: Tensor = field(repr=False)
    magnitudes: Tensor = field(repr=False)


def readers(
    model: Model, module: nn.Module, names: Sequence[str], calibration: Iterable[Batch], who: str
) -> Iterator[Readers]:
    """All Linear layers of these names, each once; what was changed in the earlier ones is what the later ones read.

    `module` is a copy of the model's own. Of all batches the hidden states before one layer are kept, and the moments
    of its inputs. Raises DataError where there is no batch, or a layer reads a NaN or an infinity; `who` begins the
    sentence.

    >>> [list(group.layers) for group in readers(model, copy, ["q", "k", "head"], data.calibration, "gptq")]
    [['q', 'k'], ['head']]
    """
    left = list(names)
    for stop in _stops(model, module, calibration, who):
        prefix = f"{stop.name}."
        inside = [name.removeprefix(prefix) for name in left if name.startswith(prefix)]
        groups = disjoint(stop.sharing(inside), inside) if inside else []
        sums = {group[0]: _sums(stop.layer, group[0]) for group in groups}
        stop.read(list(sums), lambda name, x, sums=sums: sums[name].add(x))
        for group in groups:
            yield _readers(module, [prefix + name for name in group], sums[group[0]])
            left = [name for name in left if name not in {prefix + name for name in group}]
    if left:
        yield from _hooked(model, module, left, calibration, who)


def _stops(model: Model, module: nn.Module, calibration: Iterable[Batch], who: str) -> Iterator[Stop]:
    """The walk, or nothing where the module cannot be walked."""
    stops = walk(model, module, calibration, who)
    try:
        first = next(stops)
    except UnsupportedError:
        return
    yield first
    yield from stops


def _hooked(
    model: Model, module: nn.Module, names: Sequence[str], calibration: Iterable[Batch], who: str
) -> Iterator[Readers]:
    with evaluating(module):
        groups = _sharing(module, model.example, names)
        sums = {group[0]: _sums(module, group[0]) for group in groups}

        def run(inputs: Mapping[str, Tensor]) -> None:
            mask = inputs.get("attention_mask")

            def watch(name: str, x: Tensor) -> None:
                sums[name].add(samples(x, module.get_submodule(name), mask))

            _watched(module, {name: partial(watch, name) for name in sums}, inputs)

        calibrate(run, model.example, calibration, who)
    for group in groups:
        yield _readers(module, group, sums[group[0]])


def _sharing(module: nn.Module, example: Mapping[str, Tensor], names: Sequence[str]) -> list[list[str]]:
    """The layers together that read the very same tensor; one that does not run alone."""
    found: dict[int, list[str]] = {}
    kept: list[Tensor] = []  # an id is only good while its tensor lives

    def watch(name: str, x: Tensor) -> None:
        kept.append(x)
        found.setdefault(id(x), []).append(name)

    with torch.no_grad():
        _watched(module, {name: partial(watch, name) for name in names}, example)
    groups = disjoint(list(found.values()), names)
    ran = {name for group in groups for name in group}
    return groups + [[name] for name in names if name not in ran]


def _watched(module: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]], inputs: Mapping[str, Tensor]) -> None:
    with ExitStack() as hooks:
        for name, watch in watchers.items():
            hooks.enter_context(reading(module.get_submodule(name), watch))
        module(**inputs)


def _sums(module: nn.Module, name: str) -> Sums:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    n = layer.in_features
    return Sums(torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))


def _readers(module: nn.Module, names: Sequence[str], sums: Sums) -> Readers:
    if not torch.isfinite(sums.products).all():
        raise DataError(f"{names[0]} reads a NaN or an infinity during calibration; check the data and the model")
    layers: dict[str, nn.Linear] = {}
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layers[name] = layer
    count = max(sums.count, 1)
    return Readers(layers, sums.products / count, sums.magnitudes / count)
