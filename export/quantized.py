"""Quantized layers and their torch reference: what a pass puts into a model and every exporter lowers.

Each operator below computes, slowly and obviously, what a lowered file must compute. In a module they stand for a
decision; an exporter finds them by name (`edgepress::...`) and writes them in its format's own terms.
"""

import torch
from torch import Tensor, nn

from .qtensor import QTensor


@torch.library.custom_op("edgepress::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Static activations, per tensor: `s·(clamp(round(x/s) + z) − z)`; the integer type is that of `zero`.

    Rounds half to even, as ONNX QuantizeLinear does.
    """
    limits = torch.iinfo(zero.dtype)
    q = torch.clamp(torch.round(x / scale) + zero.float(), limits.min, limits.max)
    return (q - zero.float()) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgepress::dequantize", mutates_args=())
def dequantize(values: Tensor, scale: Tensor, zero: Tensor | None, bits: int, axis: int) -> Tensor:
    """Weights, per channel along `axis`: `s·(Q − z)`."""
    return QTensor(values, scale, zero, bits, axis).dequantize()


@dequantize.register_fake
def _(values: Tensor, scale: Tensor, zero: Tensor | None, bits: int, axis: int) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


@torch.library.custom_op("edgepress::widen", mutates_args=())
def widen(values: Tensor) -> Tensor:
    """Weights stored as float16, computed with as float32."""
    return values.float()


@widen.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


@torch.library.custom_op("edgepress::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`s_x·s_w·((Q_x − z_x) Q_wᵀ) + b`; x is quantized to uint8 over the whole tensor (ONNX DynamicQuantizeLinear).

    One scale for the whole tensor: a sample alone and the same sample in a batch differ a little.
    """
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    step = (high - low) / 255
    step = torch.where(step > 0, step, 1.0)
    zero = torch.round(torch.clamp(-low / step, 0, 255))
    q = torch.clamp(torch.round(x / step) + zero, 0, 255)
    # float64 holds the int32 sums exactly; torch has no integer matmul of any shape on the CPU
    y = ((q - zero).double() @ values.double().T).float() * (step * scale)
    return y if bias is None else y + bias


@dynamic_linear.register_fake
def _(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


@torch.library.custom_op("edgepress::packed_linear", mutates_args=())
def packed_linear(
    x: Tensor, values: Tensor, multiplier: Tensor, zero: Tensor, scale: Tensor, bias: Tensor | None, block: int
) -> Tensor:
    """`dynamic_linear` with `V = m·(Q − z)`, int8, for weights: Q uint8 (rows, width), m and z uint8 (rows, blocks)."""
    return dynamic_linear(x, unpacked(values, multiplier, zero, block), scale, bias)


@packed_linear.register_fake
def _(
    x: Tensor, values: Tensor, multiplier: Tensor, zero: Tensor, scale: Tensor, bias: Tensor | None, block: int
) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


def unpacked(values: Tensor, multiplier: Tensor, zero: Tensor, block: int) -> Tensor:
    """`V = m·(Q − z)`, int8 (rows, width)."""
    q, z = values.unflatten(1, (-1, block)).int(), zero[..., None].int()
    return ((q - z) * multiplier[..., None].int()).flatten(1).to(torch.int8)


@torch.library.custom_op("edgepress::block_linear", mutates_args=())
def block_linear(
    x: Tensor, values: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, bits: int, block: int
) -> Tensor:
    """`x Wᵀ + b` with W in blocks along its rows; x stays float."""
    weight = QTensor(values, scale, zero, bits, block=block).dequantize()
    return nn.functional.linear(x, weight, bias)


@block_linear.register_fake
def _(
    x: Tensor, values: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, bits: int, block: int
) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


@torch.library.custom_op("edgepress::block_embedding", mutates_args=())
def block_embedding(ids: Tensor, values: Tensor, scale: Tensor, zero: Tensor | None, bits: int, block: int) -> Tensor:
    """Rows of a table in blocks, dequantized after the gather."""
    rows = QTensor(values[ids], scale[ids], None if zero is None else zero[ids], bits, block=block)
    return rows.dequantize().to(scale.dtype).float()


@block_embedding.register_fake
def _(ids: Tensor, values: Tensor, scale: Tensor, zero: Tensor | None, bits: int, block: int) -> Tensor:
    return torch.empty(*ids.shape, values.shape[1], device=ids.device)


class _Quantized(nn.Module):
    """A layer whose weight is a QTensor, kept in buffers so that it moves and saves like any other.

    `forward` takes `input`, as torch's own layers do: a call by name finds it.
    """

    values: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, weight: QTensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bits, self.axis, self.block = weight.bits, weight.axis, weight.block
        self.register_buffer("values", weight.values)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero", weight.zero)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> QTensor:
        """The decision: integers, scale, zero point, granularity."""
        return QTensor(self.values, self.scale, self.zero, self.bits, self.axis, self.block)


class DynamicLinear(_Quantized):
    """nn.Linear with int8 weights per channel and activations quantized as they come."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        return dynamic_linear(input, self.values, self.scale, self.bias)


class PackedLinear(nn.Module):
    """nn.Linear with int8 products as DynamicLinear, its weights made of 4 bit integers in two levels of scales."""

    values: Tensor
    multiplier: Tensor
    zero: Tensor
    scale: Tensor

    def __init__(
        self, values: Tensor, multiplier: Tensor, zero: Tensor, scale: Tensor, bias: Tensor | None, block: int
    ) -> None:
        super().__init__()
        self.block = block
        held = {"values": values, "multiplier": multiplier, "zero": zero, "scale": scale}
        for name, tensor in held.items():
            self.register_buffer(name, tensor.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> QTensor:
        """The weights as the engine multiplies them: int8 per channel."""
        return QTensor(unpacked(self.values, self.multiplier, self.zero, self.block), self.scale, None, 8, axis=0)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        return packed_linear(input, self.values, self.multiplier, self.zero, self.scale, self.bias, self.block)


class BlockLinear(_Quantized):
    """nn.Linear with 4 or 8 bit weights in blocks and float activations."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32 -> (..., out)."""
        assert self.block is not None
        return block_linear(input, self.values, self.scale, self.zero, self.bias, self.bits, self.block)


class BlockEmbedding(_Quantized):
    """nn.Embedding with 4 or 8 bit rows in blocks."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (...), int64 -> (..., width), float32."""
        assert self.block is not None
        return block_embedding(input, self.values, self.scale, self.zero, self.bits, self.block)


class Divided(nn.Module):
    """`layer(x / s)`, s per input channel: the other half of a weight that was multiplied by s."""

    inverse: Tensor

    def __init__(self, scale: Tensor, layer: nn.Module) -> None:
        super().__init__()
        self.register_buffer("inverse", 1 / scale)
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input: (..., in), float32."""
        return self.layer(input * self.inverse)
