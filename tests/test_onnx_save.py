"""The file that is written weight by weight holds what onnx_ir's own holds."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.export.onnx_save import _varint, save


def model(*arrays: np.ndarray) -> ir.Model:
    weights = []
    for i, array in enumerate(arrays):
        name = f"w{i}"
        weights.append(ir.Value(name=name, const_value=ir.tensor(array, name=f"{name} once")))
    weights.append(ir.Value(name="s", const_value=ir.StringTensor([b"a", b"bc"], shape=ir.Shape([2]), name="s")))
    x = ir.Value(name="x", shape=ir.Shape(["batch", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = [ir.node("Identity", [value]) for value in (x, *weights)]
    y = nodes[0].outputs[0]
    y.name, y.shape, y.type = "y", x.shape, x.type
    graph = ir.Graph([x], [y], nodes=nodes, initializers=weights, opset_imports={"": 21}, name="main")
    return ir.Model(graph, ir_version=10)


ARRAYS = [
    np.arange(300, dtype=np.float32).reshape(3, 100), np.array(3, np.int64), np.zeros((0, 4), np.float16),
    np.array([True, False]), np.arange(-4, 4, dtype=np.int8),
]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, len(ARRAYS)])
def test_the_file_is_read_as_the_one_that_onnx_ir_writes(tmp_path: Path, count: int):
    made = model(*ARRAYS[:count])
    save(made, tmp_path / "ours.onnx")
    ir.save(made, tmp_path / "theirs.onnx")  # after ours: the model still has its weights
    ours, theirs = (onnx.load(tmp_path / name) for name in ("ours.onnx", "theirs.onnx"))
    assert ours == theirs
    onnx.checker.check_model(ours)


def test_values_of_four_bits_are_written_packed(tmp_path: Path):
    made = model(np.zeros(1))
    packed = ir.PackedTensor(np.array([0x21, 0x03], np.uint8), ir.DataType.UINT4, shape=ir.Shape([3]), name="w0")
    made.graph.initializers["w0"].const_value = packed
    save(made, tmp_path / "m.onnx")
    found, _ = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found).astype(int), [1, 2, 3])


@given(st.integers(0, 2**40))
def test_a_varint_is_the_number_in_groups_of_seven_bits(value: int):
    written = list(_varint(value))
    assert sum((byte & 127) << 7 * i for i, byte in enumerate(written)) == value
    assert [byte >> 7 for byte in written] == [1] * (len(written) - 1) + [0]
    assert len(written) == max(1, -(-value.bit_length() // 7))
