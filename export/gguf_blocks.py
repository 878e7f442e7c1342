"""Blocks of 32 weights as GGUF has them: what a pass decided, in llama.cpp's own types, integer for integer.

    Q4_0   d·(q − 8)     d float16, q 4 bits      <-  4 bits, symmetric
    Q4_1   d·q + m       d and m float16          <-  4 bits with zero points: m = −d·z
    Q8_0   d·q           d float16, q int8        <-  8 bits, symmetric: q is Q − 128

Nothing is rounded here: scales that are no float16, and products d·z that are none, are refused.
"""

import torch
from torch import Tensor

from ..runtime.errors import UnsupportedError
from .qtensor import QTensor

BLOCK = 32
# Type -> llama.cpp's number for a file of it, and the bytes of a block.
BLOCKS = {"Q4_0": (2, 18), "Q4_1": (3, 20), "Q8_0": (7, 34)}


def block_type(name: str, weight: QTensor) -> str:
    """The type that says these blocks. Raises UnsupportedError, with the setting that makes others; `name` is told."""
    if weight.block != BLOCK or weight.values.shape[-1] % BLOCK:
        rows = weight.values.shape[-1]
        found = f"blocks of {weight.block}" if weight.block != BLOCK else f"rows of {rows}"
        remedy = "set block = 32" if weight.block != BLOCK else "exclude it"
        raise UnsupportedError(f"{name} has {found}; GGUF has whole blocks of {BLOCK} along a row: {remedy}")
    if weight.bits == 8 and weight.zero is not None:
        raise UnsupportedError(f"{name} has 8 bits and zero points, which GGUF has not; set symmetric = true")
    return {4: "Q4_0" if weight.zero is None else "Q4_1", 8: "Q8_0"}[weight.bits]


def packed(name: str, weight: QTensor) -> Tensor:
    """The blocks as bytes, uint8 (rows, bytes of a row). Raises UnsupportedError where a scale is no float16."""
    kind = block_type(name, weight)
    head = [_half(name, weight.scale.float())]
    q = weight.values.unflatten(-1, (-1, BLOCK))
    if weight.zero is not None:
        head.append(_half(name, -weight.scale.float() * weight.zero.float()))
    if kind == "Q8_0":
        body = (q.short() - weight.midpoint).to(torch.int8).view(torch.uint8)
    else:
        body = q[..., : BLOCK // 2] | q[..., BLOCK // 2 :] << 4
    return torch.cat([*head, body], -1).flatten(-2).contiguous()


def _half(name: str, values: Tensor) -> Tensor:
    """float16 as bytes, uint8 (rows, blocks, 2)."""
    half = values.half()
    if not torch.equal(half.float(), values):
        raise UnsupportedError(f"{name} has scales that float16 does not hold, as GGUF's must; set short_scales = true")
    return half[..., None].contiguous().view(torch.uint8)
