"""QTensor: integers with a scale and a zero point, `W ≈ s·(Q − z)`: the one form of a decision."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["tensor", "channel", "block"]


@dataclass(frozen=True)
class QTensor:
    """Quantized weights: `values` has W's shape and one integer an element, however few `bits` it uses.

    - per tensor (`axis` and `block` None): `scale` has shape ().
    - per channel (`axis`): `scale` has shape (W.shape[axis],).
    - in blocks (`block`): along the last axis; `scale` has shape (..., ceil(W.shape[-1] / block)).

    `zero` has the shape of `scale` and the dtype of `values`; None stands for the midpoint: 2^(bits−1) for uint8, 0 for
    signed integers. `scale` is float32, or float16 where two bytes a block matter.
    """

    values: Tensor
    scale: Tensor
    zero: Tensor | None = None
    bits: int = 8
    axis: int | None = None
    block: int | None = None

    @property
    def midpoint(self) -> int:
        """The zero point of a symmetric tensor."""
        return 1 << (self.bits - 1) if self.values.dtype == torch.uint8 else 0

    def dequantize(self) -> Tensor:
        """`s·(Q − z)`, float32 of W's shape: the reference that every format is held against."""
        zero = torch.tensor(self.midpoint) if self.zero is None else self.zero.int()
        return (self.values.int() - self._spread(zero)).float() * self._spread(self.scale.float())

    def _spread(self, per_group: Tensor) -> Tensor:
        """Bring a scale or zero point to a shape that broadcasts over `values`."""
        if per_group.ndim == 0:
            return per_group
        if self.block is not None:
            return per_group.repeat_interleave(self.block, -1)[..., : self.values.shape[-1]]
        shape = [1] * self.values.ndim
        shape[self.axis or 0] = -1
        return per_group.view(shape)
