"""Multiply-accumulates, held against layers that were counted by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.export.macs import macs
from edgepress.runtime.errors import EngineError, ModelError

FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
OPSETS = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]


def file(path: Path, nodes: list, inputs: Mapping[str, int], constants: Mapping[str, np.ndarray]) -> Path:
    """A file of these nodes, whose inputs (name -> type) have no shape, and which gives the last node's output."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in inputs.items()],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=OPSETS, ir_version=11), str(path))
    return path


def ones(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def counted(
    path: Path, op: str, inputs: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray], **settings
) -> int:
    """What one node counts, whose inputs are `inputs` and then `constants`, in their order."""
    node = helper.make_node(op, [*inputs, *constants], ["y"], name="node", **settings)
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    found = macs(file(path / "m.onnx", [node], types, constants), inputs)
    assert list(found) == ["node"]
    return found["node"]


@pytest.mark.parametrize(
    ("op", "x", "w", "settings", "by_hand"),
    [
        ("MatMul", (2, 5, 8), (8, 3), {}, 2 * 5 * 3 * 8),
        ("MatMul", (4, 2, 5, 8), (4, 1, 8, 6), {}, 4 * 2 * 5 * 6 * 8),
        ("Gemm", (2, 8), (8, 3), {}, 2 * 3 * 8),
        ("Gemm", (8, 2), (3, 8), {"transA": 1, "transB": 1}, 2 * 3 * 8),
        # 3x3, 4 -> 6 channels, on 8x8 with padding: 64 places
        ("Conv", (1, 4, 8, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}, 64 * 6 * 4 * 9),
        # depthwise: each channel meets its own 3x3; stride 2: 4x4 places
        ("Conv", (2, 4, 8, 8), (4, 1, 3, 3), {"pads": [1] * 4, "strides": [2, 2], "group": 4}, 2 * 16 * 4 * 9),
        ("ConvTranspose", (1, 4, 5, 5), (4, 6, 2, 2), {"strides": [2, 2]}, 25 * 4 * 6 * 4),
    ],
)
def test_a_layer_counts_what_a_hand_counts(tmp_path: Path, op: str, x: tuple, w: tuple, settings: dict, by_hand: int):
    assert counted(tmp_path, op, {"x": ones(*x)}, {"w": ones(*w)}, **settings) == by_hand


def test_integers_count_as_floats_do(tmp_path: Path):
    x, w = ones(2, 8, dtype=np.uint8), ones(8, 3, dtype=np.int8)
    assert counted(tmp_path, "MatMulInteger", {"x": x}, {"w": w}) == 2 * 8 * 3
    x, w = ones(1, 4, 6, 6, dtype=np.uint8), ones(5, 4, 3, 3, dtype=np.uint8)
    assert counted(tmp_path, "ConvInteger", {"x": x}, {"w": w}) == 16 * 5 * 4 * 9


def test_a_quantized_convolution_finds_its_weight_behind_scale_and_zero(tmp_path: Path):
    scale, zero = np.float32(0.1), np.uint8(128)
    x = {"x": ones(1, 4, 6, 6, dtype=np.uint8)}
    more = {
        "xs": scale,
        "xz": zero,
        "w": ones(5, 4, 3, 3, dtype=np.uint8),
        "ws": scale,
        "wz": zero,
        "ys": scale,
        "yz": zero,
    }
    assert counted(tmp_path, "QLinearConv", x, {k: np.asarray(v) for k, v in more.items()}) == 16 * 5 * 4 * 9


def test_weights_in_blocks_count_their_real_size(tmp_path: Path):
    """MatMulNBits keeps [n, k / block, block / 2] bytes: two weights in each."""
    constants = {"w": ones(16, 2, 16, dtype=np.uint8), "s": ones(32)}
    settings = {"domain": "com.microsoft", "K": 64, "N": 16, "bits": 4, "block_size": 32}
    assert counted(tmp_path, "MatMulNBits", {"x": ones(3, 64)}, constants, **settings) == 3 * 64 * 16


def test_a_fused_dynamic_product_counts(tmp_path: Path):
    constants = {"w": ones(8, 3, dtype=np.int8), "s": np.asarray(np.float32(0.1))}
    assert counted(tmp_path, "DynamicQuantizeMatMul", {"x": ones(2, 8)}, constants, domain="com.microsoft") == 2 * 8 * 3


def test_attention_counts_its_scores_and_what_they_weigh(tmp_path: Path):
    q, k, v = ones(1, 2, 5, 8), ones(1, 2, 7, 8), ones(1, 2, 7, 4)
    assert counted(tmp_path, "Attention", {"q": q, "k": k, "v": v}, {}) == 2 * 5 * 7 * (8 + 4)
    flat, settings = {n: ones(1, 5, 16) for n in "qkv"}, {"q_num_heads": 2, "kv_num_heads": 2}
    with pytest.raises(ModelError, match="'node' is an Attention of 3 axes; only 4 are counted"):
        counted(tmp_path, "Attention", flat, {}, **settings)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_recurrent_layer_counts_its_gates_in_each_step(tmp_path: Path, op: str, gates: int):
    constants = {"w": ones(1, gates * 6, 5), "r": ones(1, gates * 6, 6)}
    assert counted(tmp_path, op, {"x": ones(7, 2, 5)}, constants, hidden_size=6) == 7 * 2 * gates * 6 * (5 + 6)


def test_a_free_axis_counts_as_long_as_the_inputs_are(linear: Path):
    for batch in (1, 7):
        assert list(macs(linear, {"x": ones(batch, 3)}).values()) == [batch * 3 * 2]


def test_elementwise_operators_count_nothing_and_a_node_without_a_name_is_numbered(tmp_path: Path):
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    path = file(tmp_path / "m.onnx", nodes, {"x": FLOAT}, {"w": ones(8, 3)})
    assert macs(path, {"x": ones(2, 8)}) == {"#1": 48}


def test_a_quantized_weight_counts_as_large_as_its_integers(tmp_path: Path):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], name="dq"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="mm"),
    ]
    path = file(
        tmp_path / "m.onnx", nodes, {"x": FLOAT}, {"q": ones(8, 3, dtype=np.int8), "s": np.asarray(np.float32(1))}
    )
    assert macs(path, {"x": ones(2, 8)}) == {"mm": 48}


def test_weights_beside_the_file_are_found(tmp_path: Path):
    path = file(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], {"x": FLOAT},
                {"w": ones(64, 32)})  # fmt: skip
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="w.bin", size_threshold=16)
    assert (tmp_path / "w.bin").exists()
    assert macs(path, {"x": ones(1, 64)}) == {"mm": 64 * 32}


def test_inputs_that_do_not_fit_are_an_error_of_the_engine(linear: Path):
    with pytest.raises(EngineError, match="does not run with its shapes shown"):
        macs(linear, {"x": ones(1, 7)})
