"""Structured pruning: whole channels, attention heads, feed-forward neurons and layers go; what stays is dense.

    y = Σ_u W[:, u]·x_u   ->   y ≈ Σ_{u kept} W'[:, u]·x_u,     W' refitted by least squares

Smaller tensors of the same kind, so every format and every engine gains size and time. Li et al. 2017 (channels),
Michel et al. 2019 (heads), Kwon et al. 2022 (neurons, and refitting without training), Sajjad et al. 2020 (layers).
"""

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating, first_line
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from .channels import channels, with_channels
from .config_sizes import with_config
from .data import Batch, Data
from .groups import (
    Group,
    count_kept,
    outputs_left,
    ratio_of,
    read_ratios,
    refuse_ratio,
    refuse_unmatched,
    summary,
    table,
)
from .importance import IMPORTANCES, Importance, importance, influence, squares
from .refit import refit
from .shares import shares
from .transformer import heads, neurons, refuse_unknown, stack, with_depth, with_units

WHO = "structured"

Sensitivity = Literal["none", "weights", "macs"]
SENSITIVITIES: tuple[str, ...] = get_args(Sensitivity)


@dataclass(frozen=True)
class StructuredPrune:
    """The share of units to cut, of each kind; 0 cuts none.

    `channels` of convolutions, `heads` of attention, `neurons` of feed-forward layers, and whole `layers` of a
    transformer; `layers_kept` names the layers to keep instead (0 is the first). `ratios` sets the share of single
    groups, whatever their kind: "pattern=ratio" over the names that the plan shows, the first that fits. `sensitivity`
    moves the shares of the others: as many weights (or macs, multiplications) go as without, from where it costs least.
    `importance` (magnitude, taylor, activation) chooses the units; layers go by how little they change what passes
    through them. `refit` fits the layers that lost inputs to what they gave in the whole model by least squares, on the
    calibration data and, where that is short of `refit_samples`, on inputs of the training data. Channels and neurons
    stay in multiples of `round_to`, rounded up.

    >>> StructuredPrune(neurons=0.5)(model, data).history[-1].note
    'neurons 9216 -> 4608 in 6 groups, refitted'
    """

    channels: float = 0.0
    heads: float = 0.0
    neurons: float = 0.0
    layers: float = 0.0
    layers_kept: tuple[int, ...] = ()
    ratios: tuple[str, ...] = ()
    sensitivity: Sensitivity = "none"
    importance: Importance = "activation"
    refit: bool = True
    refit_samples: int = 512
    round_to: int = 8

    def __post_init__(self) -> None:
        for kind in ("channels", "heads", "neurons", "layers"):
            refuse_ratio(WHO, kind, getattr(self, kind))
        read_ratios(WHO, self.ratios)
        if self.sensitivity not in SENSITIVITIES:
            seen = f"sensitivity = {self.sensitivity!r}"
            raise UsageError(f"{WHO}: {seen}; expected one of {', '.join(SENSITIVITIES)}")
        if self.importance not in IMPORTANCES:
            raise UsageError(f"{WHO}: importance = {self.importance!r}; expected one of {', '.join(IMPORTANCES)}")
        if self.refit_samples < 1:
            raise UsageError(f"{WHO}: refit_samples = {self.refit_samples}; expected 1 or more, as 512")
        if self.round_to < 1:
            raise UsageError(f"{WHO}: round_to = {self.round_to}; expected 1 (any number) or more, as 8")
        if self.layers and self.layers_kept:
            raise UsageError(f"{WHO}: layers and layers_kept say the same in two ways; name one of them")
        if list(self.layers_kept) != sorted(set(self.layers_kept)) or min(self.layers_kept, default=0) < 0:
            raise UsageError(
                f"{WHO}: layers_kept = {list(self.layers_kept)}; expected rising numbers from 0, as [0, 2]"
            )

    def __call__(self, model: Model, data: Data) -> Model:
        """Returns the model unchanged where it has nothing to cut.

        Raises DataError where data is needed and missing or does not run, UsageError for a pattern that fits no group
        or a layer that is not there, UnsupportedError for what cannot be cut.
        """
        groups = self.plan(model, data)
        if not any(group.cut for group in groups):
            return model
        data.tell(table(groups))
        whole = _shallower(model, groups)
        module = _without(whole, groups)
        _check(model, module)
        note, readers = summary(groups), _readers(whole, groups)
        if self.refit and readers:
            refit(whole, module, readers, list(_fitting(data, model.example, self.refit_samples)))
            note += ", refitted"
        return with_config(model.then(module, Step(WHO, asdict(self), note)))

    def plan(self, model: Model, data: Data) -> tuple[Group, ...]:
        """What will be cut, before the cut; `table` prints it. Layers go first, and the other names count without them.

        Raises what the pass raises.

        >>> print(table(StructuredPrune(neurons=0.5).plan(model, data)))
        encoder.layer.0.intermediate.dense  neurons  1536 -> 768  with encoder.layer.0.output.dense
        """
        layers = self._plan_layers(model, data)
        model = _shallower(model, layers)
        ratios = read_ratios(WHO, self.ratios)
        found: list[Group] = []
        if self.heads or ratios:
            found += heads(model.module)
        if self.neurons or ratios:
            found += neurons(model.module)
        if self.channels or ratios:
            found += channels(model)
        if self.heads or self.neurons:
            refuse_unknown(model.module, "set heads = 0 and neurons = 0")
        refuse_unmatched(WHO, ratios, [group.name for group in found])
        wanted = {group.name: self._count(group, ratios) for group in found}
        if self.sensitivity != "none":
            wanted |= self._by_sensitivity(model, data, found, wanted, ratios)
        open_ = [group for group in found if wanted[group.name] < group.size]
        scores = importance(model, open_, data.calibration, self.importance) if open_ else ()
        kept = {g.name: _best(s, wanted[g.name]) for g, s in zip(open_, scores, strict=True)}
        return (*layers, *(replace(group, kept=kept.get(group.name, group.kept)) for group in found))

    def _count(self, group: Group, ratios: Mapping[str, float]) -> int:
        """How many units of a group stay."""
        named = ratio_of(group.name, ratios, -1)
        ratio = named if named >= 0 else getattr(self, group.kind)
        if group.why and ratio and (named > 0 or group.kind != "channels"):
            raise UnsupportedError(
                f"{WHO}: the {group.kind} of {group.name} cannot be cut: {group.why}; leave them out"
            )
        multiple = 1 if group.kind == "heads" else self.round_to
        return group.size if group.why else count_kept(group.size, ratio, multiple)

    def _by_sensitivity(
        self, model: Model, data: Data, found: Sequence[Group], wanted: Mapping[str, int], ratios: Mapping[str, float]
    ) -> dict[str, int]:
        """How many units stay in the groups that are cut at the uniform ratio of their kind."""

        def cut(kept: Mapping[str, int]) -> nn.Module:
            exact = tuple(f"{glob.escape(name)}={1 - count / sizes[name]}" for name, count in kept.items())
            alone = replace(self, channels=0.0, heads=0.0, neurons=0.0, layers=0.0, layers_kept=(), ratios=exact)
            return replace(alone, sensitivity="none")(model, replace(data, tell=lambda text: None)).module

        def count(group: Group, ratio: float) -> int:
            return count_kept(group.size, ratio, 1 if group.kind == "heads" else self.round_to)

        free = [g for g in found if wanted[g.name] < g.size and ratio_of(g.name, ratios, -1) < 0]
        sizes, uniform = {g.name: g.size for g in free}, {g.name: wanted[g.name] for g in free}
        return shares(model, data, free, uniform, count=count, cut=cut, macs=self.sensitivity == "macs")

    def _plan_layers(self, model: Model, data: Data) -> tuple[Group, ...]:
        """The layers that stay: no group where none shall go."""
        if not self.layers and not self.layers_kept:
            return ()
        refuse_unknown(model.module, "set layers = 0")
        found = stack(model.module)
        if found is None:
            if self.layers_kept:
                raise UsageError(f"{WHO}: layers_kept names layers, and {model.name} has no list of transformer layers")
            return ()
        if found.why:
            raise UnsupportedError(f"{WHO}: the layers of {found.name} cannot be cut: {found.why}; set layers = 0")
        if max(self.layers_kept, default=0) >= found.size:
            seen = f"layers_kept = {list(self.layers_kept)}"
            raise UsageError(f"{WHO}: {seen}, and {found.name} has the layers 0 to {found.size - 1}")
        kept = self.layers_kept
        if not kept:
            names = [f"{found.name}.{i}" for i in range(found.size)]
            kept = _best(influence(model, names, data.calibration), count_kept(found.size, self.layers))
        return (replace(found, kept=kept),)


def _best(scores: Tensor, number: int) -> tuple[int, ...]:
    """The units with the highest scores, in rising order; of equal ones the first."""
    return tuple(sorted(torch.argsort(scores, descending=True, stable=True)[:number].tolist()))


def _shallower(model: Model, groups: Sequence[Group]) -> Model:
    """The model without the layers that go, else as it is."""
    for group in groups:
        if group.kind == "layers" and group.cut:
            model = replace(model, module=with_depth(model.module, group))
    return model


def _without(model: Model, groups: Sequence[Group]) -> nn.Module:
    """A copy without the units that go."""
    units = [group for group in groups if group.kind in ("heads", "neurons") and group.cut]
    convolved = [group for group in groups if group.kind == "channels" and group.cut]
    module = with_units(model.module, units) if units else model.module
    return with_channels(replace(model, module=module), convolved) if convolved else module


def _readers(model: Model, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The layers that lose inputs, each with the outputs that it still has."""
    cut = [group for group in groups if group.cut]
    names = dict.fromkeys(name for group in cut for name in group.columns)
    every = {name: torch.arange(len(squares(model.module.get_submodule(name)))) for name in names}
    left = {name: outputs_left(name, cut) for name in names}
    return {name: every[name] if rows is None else rows for name, rows in left.items()}


def _fitting(data: Data, inputs: Collection[str], wanted: int) -> Iterator[Batch]:
    """The calibration batches, then inputs of training batches, until there are enough samples."""
    training = data.training(0) if callable(data.training) else data.training
    unlabelled = ({name: batch[name] for name in inputs if name in batch} for batch in training)
    seen = 0
    for batch in chain(data.calibration, unlabelled):
        if seen >= wanted:
            return
        yield batch
        seen += max((len(array) for array in batch.values() if array.ndim), default=1)


def _check(model: Model, module: nn.Module) -> None:
    """Raises UnsupportedError where the module does not run any more, or its outputs have another shape."""
    with evaluating(model.module), evaluating(module):
        whole = model(**model.example)
        try:
            part = replace(model, module=module)(**model.example)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            raise UnsupportedError(
                f"{WHO}: {model.name} does not run after the cut ({first_line(error)}); its code holds sizes of its own"
            ) from error
    for name, tensor in whole.items():
        if part[name].shape != tensor.shape:
            raise UnsupportedError(f"{WHO}: the cut changes the shape of the output {name!r}; leave its layers out")
