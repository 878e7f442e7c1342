"""Blocks as bytes: what the official package reads from them is what the decision says, to the last bit."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.weights import in_blocks
from edgepress.export.gguf_blocks import BLOCKS, block_type, packed
from edgepress.export.qtensor import QTensor
from edgepress.runtime.errors import UnsupportedError


def read(weight: QTensor) -> np.ndarray:
    """What gguf says that the bytes are."""
    kind = gguf.GGMLQuantizationType[block_type("w", weight)]
    return gguf.quants.dequantize(packed("w", weight).numpy(), kind)


@given(st.integers(0, 10**6), st.floats(1e-6, 1e3), st.booleans(), st.sampled_from([(4, True), (4, False), (8, True)]))
def test_the_official_package_reads_what_the_decision_says(
    seed: int, spread: float, half: bool, kind: tuple[int, bool]
):
    w = spread * torch.randn(5, 96, generator=torch.Generator().manual_seed(seed))
    bits, symmetric = kind
    q = in_blocks(w, bits=bits, block=32, symmetric=symmetric, short_scales=True, half_scales=half)
    np.testing.assert_array_equal(read(q), q.dequantize().numpy())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_the_bytes_of_a_block_are_those_that_are_told(kind: str):
    q = in_blocks(torch.randn(3, 64), bits=4 if "4" in kind else 8, block=32, symmetric="1" not in kind,
                  short_scales=True)  # fmt: skip
    assert block_type("w", q) == kind
    assert packed("w", q).shape == (3, 2 * BLOCKS[kind][1])
    assert BLOCKS[kind][1] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]


@pytest.mark.parametrize(
    ("settings", "width", "told"),
    [
        ({"bits": 4, "block": 64, "symmetric": True}, 64, "blocks of 64; .*set block = 32"),
        ({"bits": 4, "block": 32, "symmetric": True}, 48, "rows of 48; .*exclude it"),
        ({"bits": 8, "block": 32, "symmetric": False}, 64, "8 bits and zero points.*set symmetric = true"),
        ({"bits": 4, "block": 32, "symmetric": True, "short_scales": False}, 64, "set short_scales = true"),
        ({"bits": 4, "block": 32, "symmetric": False, "half_scales": True, "short_scales": False}, 64,
         "set short_scales = true"),
    ],
)  # fmt: skip
def test_blocks_that_gguf_has_not_are_refused_with_the_setting_that_helps(settings: dict, width: int, told: str):
    with pytest.raises(UnsupportedError, match=f"^w has .*{told}$"):
        packed("w", in_blocks(torch.randn(4, width), **({"short_scales": True} | settings)))
