"""Walk a transformer layer by layer, its hidden states in hand: the memory of one layer's work, whatever the depth.

    h_0 = what the first layer reads,   h_{i+1} = layer_i(h_i) as the layer is when the walk goes on

So each layer is looked at on what the layers before it give *now*, compressed as they are (Frantar & Alistarh 2023).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError, UnsupportedError
from .calibration import calibrate
from .data import Batch
from .importance import reading, samples
from .transformer import stack


@dataclass
class _Call:
    """A batch on its way: its hidden states, and what each layer is given beside them."""

    states: Tensor
    mask: Tensor | None
    beside: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]


@dataclass(frozen=True)
class Stop:
    """A layer where the walk has stopped: it may be changed in place, and what it gives then goes on."""

    name: str
    layer: nn.Module
    _index: int
    _calls: Sequence[_Call]

    def read(self, names: Sequence[str], watch: Callable[[str, Tensor], object]) -> None:
        """Run the layer on all batches; `watch` gets the input of each of these Linear layers below it, [n, in].

        Padding is left out. Raises DataError for an input with a NaN or an infinity.
        """
        for call in self._calls:
            with ExitStack() as hooks:
                for name in names:
                    layer = self.layer.get_submodule(name)
                    look = partial(self._watch, name, watch, call.mask)
                    hooks.enter_context(reading(layer, look))
                self._run(call)

    def sharing(self, names: Sequence[str]) -> list[list[str]]:
        """These layers, together where they read the very same tensor, as queries, keys and values do."""
        readers: dict[int, list[str]] = {}
        kept: list[Tensor] = []  # an id is only good while its tensor lives

        def watch(name: str, x: Tensor) -> None:
            kept.append(x)
            readers.setdefault(id(x), []).append(name)

        with ExitStack() as hooks:
            for name in names:
                layer = self.layer.get_submodule(name)
                hooks.enter_context(reading(layer, lambda x, name=name: watch(name, x)))
            self._run(self._calls[0])
        return list(readers.values())

    def _watch(self, name: str, watch: Callable[[str, Tensor], object], mask: Tensor | None, x: Tensor) -> None:
        rows = samples(x, self.layer.get_submodule(name), mask)
        if not torch.isfinite(rows).all():
            found = f"{self.name}.{name} reads a NaN or an infinity during calibration"
            raise DataError(f"{found}; check the data and the model")
        watch(name, rows)

    def _run(self, call: _Call) -> Tensor:
        args, named = call.beside[self._index]
        with torch.no_grad():
            return _first(self.layer(call.states, *args, **named))


def walk(model: Model, module: nn.Module, calibration: Iterable[Batch], who: str) -> Iterator[Stop]:
    """Stop at each layer of `module`, a copy of the model's own that the caller may change as it goes.

    Of all batches the hidden states before one layer are kept, nothing else. Raises UnsupportedError where the module
    has no list of layers that is known, or they do not follow one another; DataError where a batch is missing or does
    not run. `who` begins the sentence.
    """
    found = stack(module)
    if found is None or found.why:
        why = "" if found is None else f": {found.why}"
        raise UnsupportedError(f"{who}: {model.name} has no list of layers to walk along{why}; leave this pass out")
    names = [f"{found.name}.{i}" for i in range(found.size)]
    layers = [module.get_submodule(name) for name in names]
    calls: list[_Call] = []
    with evaluating(module):
        calibrate(lambda inputs: calls.append(_recorded(module, layers, inputs, who)), model.example, calibration, who)
        for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
            stop = Stop(name, layer, index, calls)
            yield stop
            for call in calls if index + 1 < len(layers) else ():
                call.states = stop._run(call)


def _recorded(module: nn.Module, layers: Sequence[nn.Module], inputs: Mapping[str, Tensor], who: str) -> _Call:
    """What the layers are given when the module runs on a batch: the states of the first, the rest of all.

    The rest (masks, positions) is shared by the layers, and small.
    """
    first: list[Tensor] = []
    beside: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []
    last: list[Tensor] = []

    def before(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        in_turn = len(beside) < len(layers) and layer is layers[len(beside)]
        if not args or not in_turn or (last and args[0] is not last[0]):
            raise UnsupportedError(f"{who}: the layers of {type(module).__name__} do not just follow one another")
        if not first:
            first.append(args[0].detach())
        beside.append((args[1:], named))

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        last[:] = [_first(output)]

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(before, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(after))
        module(**inputs)
    if len(beside) != len(layers):
        raise UnsupportedError(f"{who}: {len(layers) - len(beside)} layers of {type(module).__name__} were not run")
    mask = inputs.get("attention_mask")
    return _Call(first[0], mask if mask is not None and mask.ndim == 2 else None, beside)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
