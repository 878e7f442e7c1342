"""Options: what can be done to one layer, to see what that layer pays for it.

    f  ->  f_l      the layer l changed, all others as they are; for each layer l that the option is for

A pass that swaps layers is made once, for all of them, and each layer is taken from there alone: it is calibrated and
rounded as in the whole compressed model. Other passes are made for one layer at a time.
"""

import glob
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from torch import nn

from ..devices.device import Device
from ..export.model import Model
from ..runtime.errors import UnknownName, UsageError
from .capture import capture
from .channels import channels
from .data import Data
from .groups import Group
from .layers import KINDS, find_layers, with_layers
from .lowrank import LowRank
from .packed import PackedInt8
from .quantize import DynamicInt8, WeightOnly
from .recipe import Pass, Recipe
from .static import StaticInt8
from .structured import StructuredPrune
from .transformer import heads, neurons

_CONVOLUTIONS = ["conv1d", "conv2d"]


@dataclass(frozen=True)
class Variant:
    """The model with one layer, or one group of layers, changed.

    `layer` is its name, as patterns name it, and `parts` are the layers that the change is in. `base` computes what the
    model computes, and differs from the variant in the change alone. `step` is set where the change is in the graph
    around the layer: it makes the same change to a model that is nothing but the layer.
    """

    layer: str
    parts: tuple[str, ...]
    base: nn.Module
    model: Model
    step: Pass | None = None


@dataclass(frozen=True)
class Option:
    """A change by its name as it is typed, `int8` or `rank=0.5`.

    `names(model)` are the layers that it is for; `variants(model, data, names)` gives a variant for each of these that
    it does change.
    """

    name: str
    names: Callable[[Model], Collection[str]]
    variants: Callable[[Model, Data, Collection[str]], Iterator[Variant]]


def find_option(text: str, on: Device) -> Option:
    """The option of this text, made for a device. Raises UnknownName, UsageError for a number that cannot be right.

    >>> find_option("rank=0.25", find_device("host")).name
    'rank=0.25'
    """
    name, equals, number = text.partition("=")
    if name not in OPTIONS:
        raise UnknownName("option", name, OPTIONS)
    make, usual = OPTIONS[name]
    if equals and usual is None:
        raise UsageError(f"the option {text!r} has a number, and {name} takes none; leave it out")
    try:
        share = float(number) if equals else usual or 0.0
    except ValueError as error:
        raise UsageError(f"the option {text!r} has no number; expected one as {name}={usual}") from error
    return make(text, share, on)


def changed_layers(before: nn.Module, after: nn.Module) -> dict[str, nn.Module]:
    """The layers that a pass has put in the place of others, by their names."""
    layers = find_layers(before, list(KINDS))
    found = {name: after.get_submodule(name) for name in layers}
    return {name: found[name] for name, layer in layers.items() if type(found[name]) is not type(layer)}


def _swapping(name: str, step: Pass, kinds: list[str], on: Device) -> Option:
    """A pass that puts other layers in the place of those of these kinds."""

    def variants(model: Model, data: Data, names: Collection[str]) -> Iterator[Variant]:
        whole = _made_for(step, on)(model, data).module
        for layer, changed in changed_layers(model.module, whole).items():
            if layer in names:
                alone = replace(model, module=with_layers(model.module, {layer: changed}))
                yield Variant(layer, (layer,), model.module, alone)

    return Option(name, lambda model: find_layers(model.module, kinds), variants)


def _static(name: str, _: float, on: Device) -> Option:
    """Static int8, traced anew for each layer: its rounding is in the graph around them."""

    def variants(model: Model, data: Data, names: Collection[str]) -> Iterator[Variant]:
        base = capture(model)
        for layer in names:
            changed = _made_for(StaticInt8(include=(glob.escape(layer),)), on)(model, data)
            if changed is not model:
                yield Variant(layer, (layer,), base, changed, _made_for(StaticInt8(min_products=1), on))

    return Option(name, lambda model: find_layers(model.module, ["linear", *_CONVOLUTIONS]), variants)


def _int8(name: str, _: float, on: Device) -> Option:
    """What the recipe int8 ends with: static where there are convolutions, else dynamic."""
    static, dynamic = _static(name, 0.0, on), _swapping(name, DynamicInt8(), ["linear"], on)

    def chosen(model: Model) -> Option:
        return static if find_layers(model.module, _CONVOLUTIONS) else dynamic

    return Option(
        name, lambda model: chosen(model).names(model), lambda model, *rest: chosen(model).variants(model, *rest)
    )


def _rank(name: str, ratio: float, on: Device) -> Option:
    kinds = ("linear", "embedding", "conv2d")
    return _swapping(name, LowRank(ratio=ratio, layers=kinds), list(kinds), on)


def _cut(name: str, ratio: float, on: Device) -> Option:
    """Channels, heads and feed-forward neurons: a share of one group at a time, the rest refitted."""
    StructuredPrune(channels=ratio)  # refuses a share that cannot be cut

    def variants(model: Model, data: Data, names: Collection[str]) -> Iterator[Variant]:
        for group in _cuttable(model):
            step = StructuredPrune(ratios=(f"{glob.escape(group.name)}={ratio}",))
            changed = step(model, replace(data, tell=lambda text: None)) if group.name in names else model
            if changed is not model:
                yield Variant(group.name, tuple(dict.fromkeys((*group.rows, *group.columns))), model.module, changed)

    return Option(name, lambda model: [group.name for group in _cuttable(model)], variants)


def _cuttable(model: Model) -> list[Group]:
    found = [*heads(model.module), *neurons(model.module), *channels(model)]
    return [group for group in found if not group.why and group.size > 1]


def _made_for(step: Pass, on: Device) -> Pass:
    return Recipe("", "", (("", step),)).targeting(on)


# Name of an option -> what makes it of its text and number, and the number where none is typed (None: it takes none).
OPTIONS: dict[str, tuple[Callable[[str, float, Device], Option], float | None]] = {
    "int8": (_int8, None),
    "static": (_static, None),
    "int4": (lambda name, _, on: _swapping(name, WeightOnly(), ["linear", "embedding"], on), None),
    "packed": (lambda name, _, on: _swapping(name, PackedInt8(), ["linear"], on), None),
    "rank": (_rank, 0.5),
    "cut": (_cut, 0.5),
}
