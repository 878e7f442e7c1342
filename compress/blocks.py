"""Linear layers in blocks, rounded for what they read: by GPTQ, which moves weights, or by AWQ, which scales inputs.

Each layer of a transformer is rounded on what the rounded layers before it give (readers.py): its target is its own
float output there, and what those before it have lost is not made up for. AWQ's division of the inputs is folded into
the layer that makes them, where one can take it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.quantized import Divided
from .awq import awq_scale
from .data import Data
from .fake import FakeBlockLinear, settle
from .folding import fold
from .gptq import gptq_blocks
from .layers import with_layers
from .readers import Readers, readers
from .weights import in_blocks

ROUNDINGS = ("nearest", "gptq", "awq")

# Divide what the layers of these names read by s, within the model; whether that could be done.
_Fold = Callable[[Sequence[str], Tensor], bool]


@dataclass(frozen=True)
class Blocks:
    """What the integers of a matrix are."""

    bits: int
    block: int
    symmetric: bool
    short_scales: bool

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight, each element at the nearest integer."""
        return in_blocks(weight, **asdict(self)).dequantize()


def rounded_layers(
    model: Model,
    data: Data,
    others: Mapping[str, nn.Module],
    names: Sequence[str],
    blocks: Blocks,
    rounding: str,
    divide: bool = True,
) -> dict[str, nn.Module]:
    """What takes the place of each Linear of these names: a layer that rounds as it runs, to what was chosen here.

    `others` are the layers that are rounded in any case, on their way to integers: what comes after them reads what
    they give. Norms that took a division have other weights, and are there too. With `divide` a layer divides its
    inputs itself where none before it can. Raises DataError where there is no calibration data.
    """
    who = f'weight_only with rounding = "{rounding}"'
    work = replace(model, module=with_layers(model.module, {name: settle(layer) for name, layer in others.items()}))
    result: dict[str, nn.Module] = {}

    def folded(read: Sequence[str], s: Tensor) -> bool:
        maker = fold(work, read, s)
        if maker is None:
            return False
        layer = work.module.get_submodule(maker)
        if maker not in result:
            result[maker] = copy.deepcopy(layer)
            return True
        result[maker] = _divided(result[maker], s, blocks)
        layer.weight = nn.Parameter(effective(result[maker]), requires_grad=False)
        return True

    rounded: set[str] = set()
    for group in readers(work, work.module, names, data.calibration, who):
        made = _METHODS[rounding](group, _biases(model.module, group), blocks, folded, divide)
        for name, layer in group.layers.items():
            layer.weight = nn.Parameter(effective(made[name]), requires_grad=False)
        result |= made
        rounded |= set(made)
        data.tell(f"weight_only, {rounding}: {len(rounded)} of {len(names)} layers")
    return result


def _biases(module: nn.Module, group: Readers) -> dict[str, Tensor | None]:
    """The module's own, which the layers that are made share."""
    return {name: dict(module.get_submodule(name).named_parameters()).get("bias") for name in group.layers}


def _gptq(
    group: Readers, biases: Mapping[str, Tensor | None], blocks: Blocks, folded: _Fold, divide: bool
) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for name, layer in group.layers.items():
        weight, scale, zero = gptq_blocks(layer.weight, group.moments, **asdict(blocks))
        made[name] = FakeBlockLinear(weight, biases[name], **asdict(blocks), found=(scale, zero))
    return made


def _awq(
    group: Readers, biases: Mapping[str, Tensor | None], blocks: Blocks, folded: _Fold, divide: bool
) -> dict[str, nn.Module]:
    weights = {name: layer.weight.detach().float() for name, layer in group.layers.items()}
    s = awq_scale(list(weights.values()), group.moments, group.magnitudes, blocks.rounded)
    gone = s is not None and folded(list(weights), s)
    s = s if gone or divide else None
    made: dict[str, nn.Module] = {}
    for name, weight in weights.items():
        scaled = FakeBlockLinear(weight if s is None else weight * s, biases[name], **asdict(blocks))
        made[name] = scaled if s is None or gone else Divided(s, scaled)
    return made


_METHODS = {"gptq": _gptq, "awq": _awq}


def _divided(layer: nn.Module, s: Tensor, blocks: Blocks) -> nn.Module:
    """A layer that rounds as it runs, for outputs divided by s: each row with its scales."""
    if isinstance(layer, Divided):
        return Divided(1 / layer.inverse, _divided(layer.layer, s, blocks))
    assert isinstance(layer, FakeBlockLinear)
    bias = None if layer.bias is None else nn.Parameter(layer.bias.detach() / s, requires_grad=False)
    return FakeBlockLinear(layer.weight.detach() / s[:, None], bias, **asdict(blocks))


def effective(layer: nn.Module) -> Tensor:
    """The weight that a rounding layer multiplies its input by, float32 (out, in)."""
    if isinstance(layer, Divided):
        return effective(layer.layer) * layer.inverse
    assert isinstance(layer, FakeBlockLinear)
    with torch.no_grad():
        return layer.quantized().dequantize()
