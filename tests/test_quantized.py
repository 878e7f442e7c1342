"""Each operator is what its equation says, and what ONNX Runtime's own operators make of the same numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper
from torch import Tensor, nn

from edgepress.export.qtensor import QTensor
from edgepress.export.quantized import (
    BlockEmbedding,
    BlockLinear,
    Divided,
    DynamicLinear,
    block_embedding,
    block_linear,
    dequantize,
    dynamic_linear,
    quantize_dequantize,
)

from .quantize_check import largest_difference, random

finite = st.floats(-1e4, 1e4, width=32)
vectors = arrays.arrays(np.float32, st.integers(1, 40), elements=finite)


def onnx_runtime(inputs: dict[str, np.ndarray], outputs: int, *nodes: tuple[str, list[str], list[str]]) -> list[Any]:
    """Run a few ONNX operators, (type, inputs, outputs) each; returns y0, y1, ..."""
    graph = helper.make_graph(
        [helper.make_node(op, take, give) for op, take, give in nodes],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, inputs)


@given(vectors, st.floats(2**-14, 2**7, width=32), st.integers(0, 255), st.sampled_from([torch.uint8, torch.int8]))
def test_static_activations_are_rounded_as_onnx_rounds_them(
    x: np.ndarray, scale: float, zero: int, dtype: torch.dtype
) -> None:
    step, point = torch.tensor(scale), torch.tensor(zero + torch.iinfo(dtype).min, dtype=dtype)
    expected = onnx_runtime(
        {"x": x, "s": step.numpy(), "z": point.numpy()},
        1,
        ("QuantizeLinear", ["x", "s", "z"], ["q"]),
        ("DequantizeLinear", ["q", "s", "z"], ["y0"]),
    )[0]
    assert np.array_equal(quantize_dequantize(torch.from_numpy(x), step, point).numpy(), expected)


def test_static_activations_round_half_to_even_and_stop_at_the_ends_of_the_type() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0])
    unsigned = quantize_dequantize(x, torch.tensor(1.0), torch.tensor(100, dtype=torch.uint8))
    assert unsigned.tolist() == [0, 2, 2, 0, -2, 155, -100]
    signed = quantize_dequantize(x, torch.tensor(1.0), torch.tensor(-28, dtype=torch.int8))
    assert signed.tolist() == unsigned.tolist()


@given(vectors)
def test_dynamic_activations_follow_onnxs_formula(x: np.ndarray) -> None:
    """Through the identity matrix `dynamic_linear` shows what x became."""
    q, scale, zero = onnx_runtime({"x": x}, 3, ("DynamicQuantizeLinear", ["x"], ["y0", "y1", "y2"]))
    expected = (q.astype(np.float32) - np.float32(zero)) * scale
    identity = torch.eye(len(x), dtype=torch.int8)
    actual = dynamic_linear(torch.from_numpy(x), identity, torch.ones(len(x)), None)
    assert np.array_equal(actual.numpy(), expected)


@pytest.mark.parametrize(
    "x",
    [[0.0, 0.0], [3.0, 3.0], [1.1, 2.0], [-1.1, -2.0], [-5.0, 0.1], [1e-30, 0.0]],
    ids=["zeros", "constant", "positive", "negative", "mixed", "nearly nothing"],
)
def test_dynamic_activations_hold_0_in_their_range(x: list[float]) -> None:
    """ONNX's equations, in Python's own numbers: scale = (max(x, 0) − min(x, 0)) / 255, z = round(−min / scale)."""
    low, high = min(*x, 0.0), max(*x, 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    expected = [(min(max(round(v / scale) + zero, 0), 255) - zero) * scale for v in x]
    actual = dynamic_linear(torch.tensor(x), torch.eye(2, dtype=torch.int8), torch.ones(2), None)
    assert actual.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bias", [None, random(3, seed=9)])
def test_a_dynamic_product_is_a_sum_of_integers_scaled_once(bias: Tensor | None) -> None:
    x, values, scale = random(2, 5), torch.tensor(np.random.default_rng(1).integers(-127, 128, (3, 5))), random(3).abs()
    low, high = float(x.min()), float(x.max())
    step = (high - low) / 255
    zero = round(-low / step)
    for row, column in np.ndindex(2, 3):
        total = sum(
            (min(max(round(float(x[row, k]) / step) + zero, 0), 255) - zero) * int(values[column, k]) for k in range(5)
        )
        expected = total * step * float(scale[column]) + (0.0 if bias is None else float(bias[column]))
        actual = dynamic_linear(x, values.to(torch.int8), scale, bias)[row, column]
        assert float(actual) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_sums_of_a_long_row_are_exact() -> None:
    """132,648,705 takes 27 bits, float32 sums hold 24: rounding to float comes once, at the end."""
    x, values = torch.full((1, 4096), 255.0), torch.full((1, 4096), 127, dtype=torch.int8)
    values[0, 0] = 126
    assert dynamic_linear(x, values, torch.ones(1), None).item() == np.float32(4096 * 127 * 255 - 255)


def test_a_sample_alone_and_in_a_batch_differ_a_little() -> None:
    """One scale for the whole tensor: a large neighbour takes the steps."""
    x = torch.cat([random(1, 64), 20 * random(1, 64, seed=1)])
    weight = torch.tensor(np.random.default_rng(2).integers(-127, 128, (8, 64)), dtype=torch.int8)
    scale = torch.full((8,), 0.01)
    alone, together = dynamic_linear(x[:1], weight, scale, None), dynamic_linear(x, weight, scale, None)[:1]
    step = float((x.max() - x.min()) / 255)
    assert 0 < largest_difference(alone, together) <= step * float(weight.abs().sum(1).max()) * 0.01


@pytest.mark.parametrize(("bits", "block", "width"), [(4, 16, 32), (4, 16, 21), (8, 32, 5)])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_product_in_blocks_is_that_of_the_dequantized_weights(
    bits: int, block: int, width: int, asymmetric: bool
) -> None:
    q, x, bias = blocks(bits, block, (3, width), asymmetric), random(2, 4, width), random(3, seed=5)
    weight = q.dequantize().double()
    expected = torch.stack([(x.double() * row).sum(-1) for row in weight], -1) + bias
    actual = block_linear(x, q.values, q.scale, q.zero, bias, bits, block)
    assert largest_difference(actual, expected) < 1e-5
    assert largest_difference(block_linear(x, q.values, q.scale, q.zero, None, bits, block), expected - bias) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_a_table_are_dequantized_in_the_type_of_their_scales(dtype: torch.dtype) -> None:
    q = blocks(4, 16, (6, 21), asymmetric=True, scale=dtype)
    ids = torch.tensor([[5, 0, 5], [1, 2, 3]])
    rows = block_embedding(ids, q.values, q.scale, q.zero, 4, 16)
    exact = q.dequantize()[ids].numpy()
    assert np.array_equal(rows.numpy(), exact.astype(np.float16) if dtype == torch.float16 else exact)
    assert rows.dtype == torch.float32


def blocks(
    bits: int, block: int, shape: tuple[int, int], asymmetric: bool, scale: torch.dtype = torch.float32
) -> QTensor:
    rng = np.random.default_rng(3)
    groups = (shape[0], -(-shape[1] // block))

    def integers(size: tuple[int, int]) -> Tensor:
        return torch.from_numpy(rng.integers(0, 2**bits, size).astype(np.uint8))

    scales = torch.from_numpy(rng.uniform(0.01, 0.1, groups)).to(scale)
    return QTensor(integers(shape), scales, integers(groups) if asymmetric else None, bits, block=block)


in_4 = blocks(4, 16, (3, 21), asymmetric=True)
channels = QTensor(torch.tensor([[1, -2], [3, 4]], dtype=torch.int8), torch.tensor([0.5, 2.0]), axis=0)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (quantize_dequantize, (random(2, 3), torch.tensor(0.1), torch.tensor(3, dtype=torch.uint8))),
        (dequantize, (channels.values, channels.scale, None, 8, 0)),
        (dynamic_linear, (random(2, 5, 2), channels.values, channels.scale, random(2))),
        (block_linear, (random(2, 5, 21), in_4.values, in_4.scale, in_4.zero, None, 4, 16)),
        (block_embedding, (torch.tensor([[1, 2]]), in_4.values, in_4.scale, in_4.zero, 4, 16)),
    ],
)
def test_an_operator_traces_to_the_shape_and_type_that_it_computes(
    operator: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> None:
    torch.library.opcheck(operator, arguments)


def test_the_dequantizing_operator_is_the_qtensors_own() -> None:
    assert torch.equal(dequantize(channels.values, channels.scale, None, 8, 0), channels.dequantize())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (DynamicLinear(channels, torch.ones(2)), random(4, 2)),
        (BlockLinear(in_4, None), random(4, 21)),
        (BlockEmbedding(in_4), torch.tensor([[2, 0]])),
        (Divided(torch.tensor([2.0, 4.0]), DynamicLinear(channels)), random(4, 2)),
    ],
    ids=["dynamic", "blocks", "embedding", "divided"],
)
def test_a_quantized_layer_saves_and_loads_and_is_called_as_torchs_own(layer: nn.Module, x: Tensor) -> None:
    assert torch.equal(layer(x), layer(input=x))
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    before = layer(x)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert any(tensor.dtype in (torch.int8, torch.uint8) for tensor in state.values())
    for tensor in layer.state_dict().values():
        tensor.zero_()
    assert not torch.equal(layer(x), before)
    layer.load_state_dict(state)
    assert torch.equal(layer(x), before)


def test_a_layer_keeps_the_decision_as_it_was_made() -> None:
    for layer, q in [(DynamicLinear(channels), channels), (BlockLinear(in_4), in_4), (BlockEmbedding(in_4), in_4)]:
        assert torch.equal(layer.weight.dequantize(), q.dequantize())
        assert (layer.weight.bits, layer.weight.axis, layer.weight.block) == (q.bits, q.axis, q.block)


def test_divided_undoes_what_was_multiplied_into_the_weights() -> None:
    scale, linear, x = torch.tensor([0.5, 4.0, 1.0]), nn.Linear(3, 2), random(5, 3)
    expected = linear(x)
    with torch.no_grad():
        linear.weight *= scale
    assert largest_difference(Divided(scale, linear)(x).detach(), expected.detach()) < 1e-6
