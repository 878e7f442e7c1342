"""How much each unit of a group matters: by its weights, by what it sends on, or by what the outputs lose without it.

With c a column of unit u in a layer W that reads it, x_c the value there, and y the model's outputs:

- magnitude    I_u = √(Σ W²), over all rows and columns of the unit      (Li et al. 2017; over groups: Fang et al. 2023)
- activation   I_u = Σ_c E[x_c²]·‖W[:, c]‖²: the energy that the layers behind it get from u
- taylor       I_u = E[(Σ_c x_c·∂(vᵀy)/∂x_c)²], v = ±1 at random: E‖y − y without u‖² to first order, no labels needed
                                                                                                (Molchanov et al. 2017)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.errors import DataError
from .calibration import calibrate
from .data import Batch
from .groups import Group

Importance = Literal["magnitude", "taylor", "activation"]
IMPORTANCES: tuple[str, ...] = get_args(Importance)


def importance(
    model: Model, groups: Sequence[Group], calibration: Iterable[Batch], how: Importance
) -> tuple[Tensor, ...]:
    """The importance of the units of each group, float64 [size]; more is more, 0 is a unit that nothing notices.

    Magnitude needs no data. Raises DataError where data is needed and missing, where the model does not run on it, or
    where a layer that was never run, or reads a NaN, leaves nothing to compare.
    """
    if how == "magnitude":
        return tuple(_magnitude(model.module, group) for group in groups)
    readers = {name: model.module.get_submodule(name) for group in groups for name in group.columns}
    found = (_activation if how == "activation" else _taylor)(model, groups, readers, calibration)
    for group, scores in zip(groups, found, strict=True):
        if not torch.isfinite(scores).all():
            raise DataError(f"{group.name} meets a NaN or an infinity during calibration; check the data and the model")
    return found


def _magnitude(module: nn.Module, group: Group) -> Tensor:
    total = torch.zeros(group.size, dtype=torch.float64)
    for name, units in group.rows.items():
        total += by_unit(squares(module.get_submodule(name)).sum(1), units, group.size)
    for name, units in group.columns.items():
        total += by_unit(squares(module.get_submodule(name)).sum(0), units, group.size)
    return total.sqrt()


def _activation(
    model: Model, groups: Sequence[Group], readers: Mapping[str, nn.Module], calibration: Iterable[Batch]
) -> tuple[Tensor, ...]:
    norms = {name: squares(layer).sum(0) for name, layer in readers.items()}
    energy = {name: torch.zeros(len(norm), dtype=torch.float64) for name, norm in norms.items()}
    count = dict.fromkeys(readers, 0)

    def watch(name: str, mask: Tensor | None, x: Tensor) -> None:
        values = samples(x, readers[name], mask)
        energy[name] += values.double().square().sum(0)
        count[name] += len(values)

    def run(inputs: Mapping[str, Tensor]) -> None:
        mask = inputs.get("attention_mask")
        with ExitStack() as hooks:
            for name, layer in readers.items():
                hooks.enter_context(reading(layer, lambda x, name=name: watch(name, mask, x)))
            model.module(**inputs)

    with evaluating(model.module):
        calibrate(run, model.example, calibration, "structured with importance = activation")
    mean = {name: energy[name] / max(count[name], 1) * norms[name] for name in readers}
    return tuple(
        sum((by_unit(mean[name], units, g.size) for name, units in g.columns.items()), torch.zeros(g.size).double())
        for g in groups
    )


def _taylor(
    model: Model, groups: Sequence[Group], readers: Mapping[str, nn.Module], calibration: Iterable[Batch]
) -> tuple[Tensor, ...]:
    total = [torch.zeros(group.size, dtype=torch.float64) for group in groups]
    signs = torch.Generator().manual_seed(0)
    samples_seen = 0

    def run(inputs: Mapping[str, Tensor]) -> None:
        nonlocal samples_seen
        seen: dict[str, list[Tensor]] = {name: [] for name in readers}

        def watch(name: str, x: Tensor) -> Tensor:
            x = x.clone() if x.requires_grad else x.detach().clone().requires_grad_()  # of this reader alone
            seen[name].append(x)
            return x

        with torch.enable_grad(), ExitStack() as hooks:
            for name, layer in readers.items():
                hooks.enter_context(reading(layer, lambda x, name=name: watch(name, x)))
            outputs = model.module(**inputs)
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            scalar = torch.stack([(y * _random_signs(y, signs)).sum() for y in outputs if y.is_floating_point()]).sum()
            flat = [(name, x) for name, calls in seen.items() for x in calls]
            gradients = torch.autograd.grad(scalar, [x for _, x in flat], allow_unused=True)
        products: dict[str, Tensor] = {}
        for (name, x), gradient in zip(flat, gradients, strict=True):
            if gradient is not None:
                product = channels_last((x * gradient).detach(), readers[name]).double()
                product = product.reshape(len(product), -1, product.shape[-1]).sum(1)
                products[name] = products.get(name, torch.zeros(())) + product
        samples_seen += max((len(product) for product in products.values()), default=0)
        for sums, group in zip(total, groups, strict=True):
            change = [by_unit(products[n], units, group.size) for n, units in group.columns.items() if n in products]
            if change:
                sums += torch.stack(change).sum(0).square().sum(0)

    with evaluating(model.module):
        calibrate(run, model.example, calibration, "structured with importance = taylor")
    return tuple(sums / max(samples_seen, 1) for sums in total)


def influence(model: Model, layers: Sequence[str], calibration: Iterable[Batch]) -> Tensor:
    """How much each layer changes what passes through it: 1 − E[cos(x, layer(x))] over all vectors, float64.

    Men et al. 2024 (ShortGPT). Raises DataError where there is no data, or the model does not run on it.
    """
    parts = [model.module.get_submodule(name) for name in layers]
    total, count = torch.zeros(len(parts), dtype=torch.float64), torch.zeros(len(parts))

    def run(inputs: Mapping[str, Tensor]) -> None:
        mask = inputs.get("attention_mask")

        def watch(i: int, args: tuple[Any, ...], named: dict[str, Any], y: Any) -> None:
            x = args[0] if args else next(iter(named.values()))
            pairs = (samples(t, parts[i], mask) for t in (x, y[0] if isinstance(y, tuple) else y))
            similar = nn.functional.cosine_similarity(*pairs, dim=-1)
            total[i] += (1 - similar.double()).sum()
            count[i] += len(similar)

        with ExitStack() as hooks:
            for i, part in enumerate(parts):
                hook = part.register_forward_hook(lambda _, *seen, i=i: watch(i, *seen), with_kwargs=True)
                hooks.enter_context(hook)
            model.module(**inputs)

    with evaluating(model.module):
        calibrate(run, model.example, calibration, "structured with layers")
    return total / count.clamp_min(1)


def _random_signs(y: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, y.shape, generator=generator).to(y.dtype) * 2 - 1


def reading(layer: nn.Module, watch: Callable[[Tensor], Tensor | None]) -> Any:
    """Call `watch` with the layer's input before each run, and run it on what that returns, if it does; a context."""

    def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        x = watch(args[0] if args else named["input"])
        if x is None:
            return None
        return ((x, *args[1:]), named) if args else (args, named | {"input": x})

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def channels_last(x: Tensor, layer: nn.Module) -> Tensor:
    """A layer's input or output with its channels on the last axis."""
    spatial = len(getattr(layer, "kernel_size", ()))  # none for Linear
    return x.movedim(-1 - spatial, -1)


def samples(x: Tensor, layer: nn.Module, mask: Tensor | None) -> Tensor:
    """[..., channels] as rows [n, channels]; of a batch of texts (`mask` of the same shape) only what is no padding."""
    x = channels_last(x.detach(), layer)
    if mask is not None and mask.shape == x.shape[:-1]:
        return x[mask.bool()]
    return x.flatten(0, -2)


def squares(layer: nn.Module) -> Tensor:
    """W² as float64 [out, in], summed over the kernel of a convolution."""
    weight = layer.get_parameter("weight").detach().double().square()
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        weight = weight.transpose(0, 1)
    return weight.flatten(2).sum(2) if weight.ndim > 2 else weight


def by_unit(values: Tensor, units: Tensor, size: int) -> Tensor:
    """Sum [..., channels] by unit into [..., size]; channels of no unit (-1) are left out."""
    held = units >= 0
    return values.new_zeros(*values.shape[:-1], size).index_add_(-1, units[held], values[..., held])
