"""A traced graph is lowered operator by operator, and what TFLite cannot say is refused with the layer's name."""

import pytest
import torch
from torch import Tensor, fx, nn

from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export.palette import PaletteConv, PaletteLinear
from edgepress.export.qtensor import QTensor
from edgepress.export.quantized import BlockEmbedding, BlockLinear, DynamicLinear, PackedLinear
from edgepress.export.tflite_lower import Lowering, lower
from edgepress.export.trace import trace
from edgepress.runtime.errors import UnsupportedError

from .quantize_check import chain, largest_difference, model_of, random

ours = torch.ops.edgepress
SYMMETRIC = {"block": 32, "symmetric": True}


def lowered(module: nn.Module, x: Tensor) -> Lowering:
    traced = trace(model_of(module, x=x)).module(check_guards=False)
    return lower(fx.GraphModule(traced, traced.graph))


def linear(weight: QTensor) -> nn.Module:
    return chain(nn.ReLU(), BlockLinear(weight, random(weight.values.shape[0])))


def looked_up(weight: QTensor) -> nn.Module:
    return chain(BlockEmbedding(weight))


def packed() -> PackedLinear:
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randint(1, 16, shape, generator=rng).to(torch.uint8) for shape in ((8, 64), (8, 2), (8, 2))]
    return PackedLinear(parts[0], parts[1] % 7 + 1, parts[2], random(8).abs(), random(8), 32)


@pytest.mark.parametrize(
    "layer",
    [
        DynamicLinear(per_channel(random(8, 64)), random(8)),
        packed(),
        BlockLinear(in_blocks(random(8, 64), bits=4, short_scales=True, **SYMMETRIC), None),
        PaletteLinear(nn.Linear(64, 8), torch.randint(0, 16, (8, 64)).to(torch.uint8), random(1, 16)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_becomes_a_product_of_floats_near_its_own(layer: nn.Module):
    x = random(3, 64)
    found = lowered(chain(layer), x)
    assert not [node for node in found.graph.graph.nodes if getattr(node.target, "namespace", "") == "edgepress"]
    expected = chain(layer)(x)
    assert largest_difference(found.graph(x), expected) <= 0.01 * float(expected.detach().abs().max())


def test_the_integers_are_those_that_an_engine_multiplies_with():
    dynamic, folded = DynamicLinear(per_channel(random(8, 64)), None), packed()
    blocks = BlockLinear(in_blocks(random(8, 64), bits=4, short_scales=True, **SYMMETRIC), None)
    for layer in (dynamic, folded, blocks):
        (decision,) = lowered(chain(layer), random(3, 64)).decisions
        assert decision.layer == "layer.0"
        assert torch.equal(decision.weight.dequantize(), layer.weight.dequantize())
        assert decision.stand_in.values.dtype == torch.int8


def test_a_palette_is_written_out():
    index, palette = torch.randint(0, 4, (6, 3, 3, 3)).to(torch.uint8), random(1, 4)
    layer = PaletteConv(nn.Conv2d(3, 6, 3, padding=1), index, palette)
    x = random(2, 3, 5, 5)
    found = lowered(chain(layer), x)
    assert found.decisions == []
    assert torch.equal(found.graph(x), chain(layer)(x))


def test_uint8_activations_become_int8_of_the_same_values():
    class Rounded(nn.Module):
        def __init__(self, zero: Tensor) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.02))
            self.register_buffer("zero", zero)

        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.edgepress.quantize_dequantize(x, self.scale, self.zero)

    x = random(3, 64) * 3
    for zero in (torch.tensor(100, dtype=torch.uint8), torch.tensor(-28, dtype=torch.int8)):
        found = lowered(Rounded(zero).eval(), x)
        assert found.static
        assert largest_difference(found.graph(x), Rounded(zero)(x)) < 1e-6
        (quantize,) = [
            n for n in found.graph.graph.nodes if n.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
        ]
        assert quantize.args[2:] == (-28, -128, 127, torch.int8)
    with pytest.raises(UnsupportedError, match="has activations of uint16, TFLite files here int8; use int8 or uint8"):
        lowered(Rounded(torch.tensor(100, dtype=torch.uint16)).eval(), x)


def test_the_traced_model_keeps_its_layers():
    module = chain(DynamicLinear(per_channel(random(8, 64)), None))
    model = model_of(module, x=random(3, 64))
    before = model(**model.example)["y"]
    lowered(module, random(3, 64))
    assert torch.equal(model(**model.example)["y"], before)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (linear(in_blocks(random(8, 64), bits=4, block=32, symmetric=False)), "has no zero points for blocks; set"),
        (linear(in_blocks(random(8, 64), bits=8, **SYMMETRIC)), "has no 8 bit blocks; set bits = 4, or a block"),
        (linear(in_blocks(random(8, 64), bits=8, block=64, symmetric=True)), "multiplies no 8 bit blocks; use dynamic"),
        (linear(in_blocks(random(8, 64), bits=4, **SYMMETRIC)), "scales of products in 8 significant bits"),
        (
            linear(in_blocks(random(8, 64), bits=4, block=16, symmetric=True, short_scales=True)),
            "blocks of a multiple of 32 that fill a row; here are blocks of 16 in rows of 64",
        ),
        (
            linear(in_blocks(random(8, 48), bits=4, short_scales=True, **SYMMETRIC)),
            "here are blocks of 32 in rows of 48",
        ),
        (looked_up(in_blocks(random(8, 64), bits=4, **SYMMETRIC)), "keeps scales as float16; set half_scales = true"),
        (
            looked_up(in_blocks(random(8, 48), bits=4, half_scales=True, **SYMMETRIC)),
            "looks up rows of whole blocks; here are blocks of 32 in rows of 48",
        ),
        (
            chain(DynamicLinear(QTensor(torch.full((8, 64), -128, dtype=torch.int8), torch.ones(8), axis=0), None)),
            "has weights as symmetric int8 with a scale a channel",
        ),
    ],
)  # fmt: skip
def test_what_tflite_cannot_say_is_refused_with_the_layer_s_name(module: nn.Module, said: str):
    width = next(part.values.shape[1] for part in module.modules() if isinstance(getattr(part, "values", None), Tensor))
    is_table = any(isinstance(part, BlockEmbedding) for part in module.modules())
    x = torch.tensor([[1, 2], [3, 4]]) if is_table else random(3, width)
    with pytest.raises(UnsupportedError) as error:
        lowered(module, x)
    assert said in str(error.value)
    assert str(error.value).startswith("layer.")
    assert "\n" not in str(error.value)
