"""LAYERS: ONNX operators whose weights are constants, as the torch layers that the passes know.

Each function gets the rank of its input (None where unknown) and the constants behind it, and returns the layer, or
None where torch's layer cannot say it; then the operator's plain function is used. The other attributes are ONNX's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .onnx_values import Ints
from .onnx_windows import pad_same, pad_spatial, same_pads

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Layer:
    """A module, and what its input goes through first: a function and its arguments after the input."""

    module: nn.Module
    before: tuple[Callable[..., Tensor], tuple[Any, ...]] | None = None


def conv(
    rank: int | None, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Layer | None:  # fmt: skip
    n = w.ndim - 2
    if n not in _CONV:
        return None
    kernel, strides, dilations = list(w.shape[2:]), strides or [1] * n, dilations or [1] * n
    pads = list(pads) if pads and auto_pad == "NOTSET" else [0] * 2 * n
    before = None
    if auto_pad.startswith("SAME"):
        if strides == [1] * n:  # then the pads do not depend on the size
            pads = same_pads([1] * n, kernel, strides, dilations, auto_pad)
        else:
            before = (pad_same, (kernel, strides, dilations, auto_pad))
    if pads[:n] != pads[n:]:
        before, pads = (pad_spatial, (pads,)), [0] * 2 * n
    module = _CONV[n](
        w.shape[1] * group, w.shape[0], tuple(kernel), tuple(strides), tuple(pads[:n]), tuple(dilations), group,
        bias=b is not None, device="meta",
    )  # fmt: skip
    return Layer(_weighted(module, w, b), before)


def conv_transpose(
    rank: int | None, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, output_padding: Ints | None = None, pads: Ints | None = None,
    strides: Ints | None = None,
) -> Layer | None:  # fmt: skip
    n = w.ndim - 2
    pads = pads or [0] * 2 * n
    if n not in _TRANSPOSED or pads[:n] != pads[n:]:
        return None
    module = _TRANSPOSED[n](
        w.shape[0], w.shape[1] * group, tuple(w.shape[2:]), tuple(strides or [1] * n), tuple(pads[:n]),
        tuple(output_padding or [0] * n), group, b is not None, tuple(dilations or [1] * n), device="meta",
    )  # fmt: skip
    return Layer(_weighted(module, w, b))


def linear(rank: int | None, w: Tensor, b: Tensor | None = None) -> Layer | None:
    """`x W + b`, with ONNX's W of shape `(inputs, outputs)`."""
    return _linear(w.T, b) if w.ndim == 2 else None


def gemm(
    rank: int | None, w: Tensor, b: Tensor | None = None, *,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803 - ONNX's names
) -> Layer | None:  # fmt: skip
    if transA or w.ndim != 2:
        return None
    w = w if transB else w.T
    if b is not None:
        if b.ndim > 1 and b.shape[:-1].numel() != 1:
            return None
        b = (b if beta == 1 else b * beta).reshape(-1).expand(w.shape[0])
    return _linear(w if alpha == 1 else w * alpha, b)


def _linear(w: Tensor, b: Tensor | None) -> Layer:
    return Layer(_weighted(nn.Linear(w.shape[1], w.shape[0], b is not None, device="meta"), w, b))


def embedding(rank: int | None, table: Tensor, *, axis: int = 0) -> Layer | None:
    if table.ndim != 2 or axis not in (0, -2) or not table.is_floating_point():
        return None
    # on the meta device its initialization would import torch's compiler, a second for nothing
    return Layer(nn.Embedding(table.shape[0], table.shape[1], _weight=table.contiguous()).eval())


def batch_norm(
    rank: int | None, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9,
    spatial: int = 1, training_mode: int = 0,
) -> Layer | None:  # fmt: skip
    if rank not in _NORM:
        return None
    module = _NORM[rank](w.shape[0], epsilon, 1 - momentum, device="meta")
    module.running_mean, module.running_var = mean.clone(), var.clone()
    module.num_batches_tracked = torch.tensor(0)
    return Layer(_weighted(module, w, b))


def layer_norm(
    rank: int | None, w: Tensor, b: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Layer | None:
    last = axis == -1 or (rank is not None and axis == rank - 1)
    if w.ndim != 1 or not last or (b is not None and b.shape != w.shape):
        return None
    return Layer(_weighted(nn.LayerNorm(w.shape[0], epsilon, bias=b is not None, device="meta"), w, b))


def _weighted(module: Any, w: Tensor, b: Tensor | None) -> nn.Module:
    """The module, made on the meta device, with its weights; biases that an exporter has shared part here."""
    module.weight = nn.Parameter(w.contiguous() if w.ndim > 1 else w.clone())
    if b is not None:
        module.bias = nn.Parameter(b.clone(memory_format=torch.contiguous_format))
    return module.eval()


# Operator -> (which input is the data; the others must be constants, how the layer is made).
LAYERS: dict[str, tuple[int, Callable[..., Layer | None]]] = {
    "BatchNormalization": (0, batch_norm),
    "Conv": (0, conv),
    "ConvTranspose": (0, conv_transpose),
    "Gather": (1, embedding),
    "Gemm": (0, gemm),
    "LayerNormalization": (0, layer_norm),
    "MatMul": (0, linear),
}
