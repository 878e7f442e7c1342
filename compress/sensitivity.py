"""Sensitivity: how far the outputs move where one layer alone is changed, and what is saved there.

    drop(l) = 1 − E[cos(f(x), f_l(x))],      KL(l) = E[KL(softmax f(x) ‖ softmax f_l(x))]      for logits

x are samples that nothing was calibrated on; no labels are needed. A layer that rounds computes in torch what the
exported file computes, so nothing has to be exported for this.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.quantized import PackedLinear
from ..export.trace import evaluating
from ..runtime.errors import DataError, UnsupportedError
from .data import Batch, Data
from .fidelity import fidelity, run_batch
from .layers import fits, refuse_unfitting
from .losses import soft_cross_entropy

if TYPE_CHECKING:
    from .options import Option, Variant

# Enough to rank layers that differ 50-fold; more only takes time.
SAMPLES = 64


@dataclass(frozen=True)
class Cost:
    """What one layer pays for one option: `drop` and `kl` (None where the output is no logits), see above.

    `weights` and `bytes` are the layer's own, as it came; `saved` is how many bytes the model's tensors lose.
    `before_ms` and `after_ms` are what the layer takes, run alone, and `score` is that of the model with this change
    alone, from its exported file; None where it was not measured.
    """

    layer: str
    kind: str
    weights: int
    bytes: int
    option: str
    drop: float
    kl: float | None
    saved: int
    before_ms: float | None = None
    after_ms: float | None = None
    score: float | None = None


class Judge:
    """How far a changed module is from the model that it came from, on the same samples."""

    def __init__(self, model: Model, samples: Sequence[Batch]) -> None:
        """Runs the model on the samples. Raises DataError where there are none, or the model does not run on one."""
        self.model, self.samples, self.output = model, samples, model.outputs[0]
        with evaluating(model.module):
            self._cosine = fidelity(model, samples, self.output)
            self._logits = self._outputs(model) if self.output == "logits" else []

    def __call__(self, module: nn.Module) -> tuple[float, float | None]:
        """`drop` and `KL`."""
        with evaluating(module):
            found = self._outputs(replace(self.model, module=module))
        ready = iter(found)
        drop = 1 - self._cosine(lambda **_: {self.output: next(ready)})["cosine"]
        if not self._logits:
            return drop, None
        pairs = zip(map(torch.from_numpy, found), map(torch.from_numpy, self._logits), strict=True)
        sums = [(float(soft_cross_entropy(mine, theirs, 1.0)) * len(mine), len(mine)) for mine, theirs in pairs]
        return drop, math.fsum(total for total, _ in sums) / sum(count for _, count in sums)

    def _outputs(self, model: Model) -> list[np.ndarray]:
        return [run_batch(model, batch)[self.output] for batch in self.samples]


def sensitivities(
    model: Model, data: Data, options: Sequence["Option"], layers: Sequence[str] = ("*",)
) -> Iterator[tuple[Cost, "Variant"]]:
    """What each layer pays for each option, one by one, with the changed model. `layers` are shell patterns.

    Raises UnsupportedError where there is no layer for any option, UsageError for a pattern that fits none of them,
    DataError where there is nothing to calibrate or to compare on.
    """
    names = {option.name: list(option.names(model)) for option in options}
    every = dict.fromkeys(chain.from_iterable(names.values()))
    if not every:
        raise UnsupportedError(f"{model.name} has no layer for {', '.join(names)}; name other options")
    refuse_unfitting(every, layers, "explained")
    data.tell("running the model as it is")
    judge = Judge(model, held_out(model, data))
    for option in options:
        chosen = [name for name in names[option.name] if fits([name], layers)]
        if chosen:
            data.tell(f"{option.name}: preparing")
        for index, variant in enumerate(option.variants(model, data, chosen) if chosen else (), 1):
            data.tell(f"{option.name}: layer {index} of {len(chosen)}, {variant.layer}")
            drop, kl = judge(variant.model.module)
            parts = [model.module.get_submodule(name) for name in variant.parts]
            weights = sum(part.get_parameter("weight").numel() for part in parts)
            saved = stored_bytes(variant.base) - stored_bytes(variant.model.module)
            size = sum(map(stored_bytes, parts))
            yield Cost(variant.layer, describe(parts), weights, size, option.name, drop, kl, saved), variant


def held_out(model: Model, data: Data) -> list[Batch]:
    """Up to SAMPLES samples of those that the score judges, as it hands them over; else of the calibration data.

    Raises DataError where there is neither.
    """
    seen: list[Batch] = []

    def session(**inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        seen.append(inputs)
        return run_batch(model, inputs)

    if data.score is not None:
        with evaluating(model.module):
            data.score(session)
    return spread(seen or list(data.calibration))


def spread(batches: Sequence[Batch]) -> list[Batch]:
    """About SAMPLES samples from all over the batches. Raises DataError where there are none."""
    counts = [max((len(array) for array in batch.values() if array.ndim), default=1) for batch in batches]
    if not sum(counts):
        raise DataError("there are no samples to compare on; bring --data, or fill Data.calibration")
    return list(batches[:: math.ceil(sum(counts) / SAMPLES)]) if len(batches) > 1 else list(batches)


def stored_bytes(module: nn.Module) -> int:
    """Bytes that the tensors of a module take in a file, quantized ones with the bits that they use."""
    bits: dict[int, int] = {}
    for part in module.modules():
        used = 4 if isinstance(part, PackedLinear) else getattr(part, "bits", 8)
        small = ("values", "zero", "multiplier")
        bits |= {id(tensor): used for name, tensor in part._buffers.items() if name in small and tensor is not None}
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return sum(math.ceil(t.numel() * bits.get(id(t), 8 * t.element_size()) / 8) for t in tensors)


def describe(parts: Sequence[nn.Module]) -> str:
    """A layer in a few words, `Linear 384 -> 1536`; of several that go together the first."""
    first = parts[0]
    weight = first.get_parameter("weight")
    ends = (weight.shape[0], weight.shape[1]) if isinstance(first, nn.Embedding) else (weight[0].numel(), len(weight))
    kernel = "x".join(map(str, getattr(first, "kernel_size", ())))
    if kernel:
        ends = first.in_channels, first.out_channels
    words = [type(first).__name__, kernel, f"{ends[0]} -> {ends[1]}"]
    return " ".join(word for word in words if word)
