"""Weights that share few values, `W = palette[index]`: what clustering puts into a model and an exporter stores packed.

The palette is a parameter: a training moves the shared values and leaves who shares them as it is. A value that is
exactly 0 gets no gradient, so weights that were pruned away stay away.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def stored_bits(bits: int) -> int:
    """What an index of so many bits takes in a file: formats have tensors of 2, 4 and 8 bits."""
    return next(width for width in (2, 4, 8) if bits <= width)


@torch.library.custom_op("edgepress::lookup", mutates_args=())
def lookup(index: Tensor, palette: Tensor) -> Tensor:
    """`W_i = palette[g(i), index_i]`, float32 of the shape of `index`.

    index: uint8 (rows, ...); palette: float32 (groups, values). Rows are dealt to the groups in their order, the first
    groups one row longer where they do not come out even (torch.tensor_split).
    """
    parts = index.tensor_split(len(palette))
    return torch.cat([values[part.int()] for part, values in zip(parts, palette, strict=True)])


@lookup.register_fake
def _(index: Tensor, palette: Tensor) -> Tensor:
    return torch.empty_like(index, dtype=palette.dtype)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
    """`∂L/∂c_k = Σ_i ∂L/∂W_i [index_i = k]` (Han et al. 2016, eq. 3), summed in float64; 0 for a value of 0."""
    index, palette = ctx.saved_tensors
    parts = zip(index.tensor_split(len(palette)), grad.tensor_split(len(palette)), strict=True)
    size = palette.shape[1]
    sums = [torch.bincount(i.flatten(), g.flatten().double(), minlength=size) for i, g in parts]
    return None, torch.where(palette == 0, 0, torch.stack(sums).to(palette.dtype))


lookup.register_autograd(_gradient, setup_context=_save)


class _Palette(nn.Module):
    """A layer whose weight is `lookup(index, palette)`; `forward` takes `input`, as torch's own layers do."""

    index: Tensor

    def __init__(self, layer: nn.Module, index: Tensor, palette: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.palette = nn.Parameter(palette)
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)

    @property
    def weight(self) -> Tensor:
        """float32, of the shape of `index`."""
        return lookup(self.index, self.palette)


class PaletteLinear(_Palette):
    """nn.Linear with a palette."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        return F.linear(input, self.weight, self.bias)


class PaletteEmbedding(_Palette):
    """nn.Embedding with a palette."""

    def __init__(self, layer: nn.Embedding, index: Tensor, palette: Tensor) -> None:
        super().__init__(layer, index, palette)
        self.padding_idx = layer.padding_idx

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (...), int64 -> (..., width), float32."""
        return F.embedding(input, self.weight, self.padding_idx)


class PaletteConv(_Palette):
    """nn.Conv1d or nn.Conv2d with a palette, padded with zeros."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, index: Tensor, palette: Tensor) -> None:
        super().__init__(layer, index, palette)
        self.settings: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (batch, in, ...), float32 -> (batch, out, ...)."""
        convolve = F.conv1d if self.index.ndim == 3 else F.conv2d
        return convolve(input, self.weight, self.bias, *self.settings)
