import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.compress.predict import predict, throughput
from edgepress.runtime.errors import UnsupportedError
from edgepress.runtime.machine import this_machine
from edgepress.runtime.probe import Point, Probe

KINDS = ("elementwise", "softmax", "gelu", "norm")
# A machine that one can compute by hand: 1e6 MACs a ms in float32, twice that in int8, half in int4.
SPEEDS = {"float32": 1e6, "int8": 2e6, "int4": 0.5e6}
PROBE = Probe(
    this_machine(),
    1,
    (
        *(Point(kind, p, 8, 4096, 32768, 0.001 + 32768 / s) for kind in ("matmul", "conv") for p, s in SPEEDS.items()),
        Point("depthwise", "float32", 8, 4096, 32768, 0.001 + 32768 / 1e5),
        *(Point(kind, "float32", 64, 1, 64, 0.001 + 64 / 1e4) for kind in KINDS),
    ),
    call_ms=0.01,
    overhead_ms=0.001,
    bandwidth={2**20: 1e10, 2**27: 1e9},
    missing={},
)


def save(path: Path, nodes: list, shape: tuple[int, ...], weights: dict[str, np.ndarray]) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_product_takes_its_macs_over_the_throughput_the_node_and_the_call(tmp_path):
    file = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "m")], (4, 64),
                {"w": np.ones((64, 32), np.float32)})  # fmt: skip
    found = predict(file, PROBE)
    macs = 4 * 64 * 32
    assert [(node.name, node.kind, node.work) for node in found.nodes] == [("m", "matmul", macs)]
    for precision, label in (("float32", "as is"), ("int8", "int8"), ("int4", "int4")):
        assert found.ms[label] == pytest.approx(0.011 + macs / SPEEDS[precision])
    assert found.error is None


def test_a_product_of_two_activations_stays_as_it_is(tmp_path):
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    found = predict(save(tmp_path / "m.onnx", nodes, (4, 64), {}), PROBE)
    assert found.ms["int8"] == found.ms["as is"] == found.ms["int4"]


def test_convolutions_are_told_from_depthwise_ones_and_have_no_int4(tmp_path):
    weights = {"w": np.ones((8, 3, 3, 3), np.float32), "d": np.ones((8, 1, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "c"),
        helper.make_node("Conv", ["h", "d"], ["y"], "d", group=8),
    ]
    found = {node.kind: node for node in predict(save(tmp_path / "c.onnx", nodes, (1, 3, 8, 8), weights), PROBE).nodes}
    assert found["conv"].work == 36 * 8 * 27
    assert found["depthwise"].work == 16 * 8 * 9
    assert found["depthwise"].ms == {"as is": pytest.approx(0.001 + 16 * 8 * 9 / 1e5)}


def test_the_other_operators_are_counted_by_their_elements_and_views_by_nothing(tmp_path):
    shape = {"s": np.array([2, 128], np.int64)}
    nodes = [helper.make_node("Softmax", ["x"], ["h"]), helper.make_node("Reshape", ["h", "s"], ["y"])]
    softmax, view = predict(save(tmp_path / "s.onnx", nodes, (4, 64), shape), PROBE).nodes
    assert softmax.ms["as is"] == pytest.approx(0.001 + 256 / 1e4)
    assert view.ms["as is"] == 0.001


def test_the_weights_of_a_large_model_are_read_from_farther_away(tmp_path):
    """1,024² floats are 4 MiB: a fifth, by logarithm of the size, of the way from 1 MiB to 128 MiB."""
    file = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], (1, 1024),
                {"w": np.ones((1024, 1024), np.float32)})  # fmt: skip
    found = predict(file, PROBE)
    bandwidth = 1e10 * 0.1 ** (2 / 7)
    assert found.ms["as is"] == pytest.approx(0.011 + 2**20 / 1e6 + 1000 * 2**22 / bandwidth)
    assert found.ms["int8"] == pytest.approx(0.011 + 2**20 / 2e6)  # 1 MiB is near


def test_a_throughput_lies_between_those_of_the_nearest_kernels():
    points = [Point("matmul", "float32", 1, 1024, 1000, 1.0), Point("matmul", "float32", 16, 1024, 1000, 0.25)]
    assert throughput(points, 0.0, 1, 1024) == pytest.approx(1000, rel=1e-5)
    assert throughput(points, 0.0, 16, 1024) == pytest.approx(4000, rel=1e-5)
    assert throughput(points, 0.0, 4, 1024) == pytest.approx(math.sqrt(1000 * 4000), rel=1e-5)


def test_what_is_no_onnx_and_what_depends_on_values_is_refused(tmp_path, artifact):
    from dataclasses import replace

    from edgepress.runtime.artifact import read_artifact, write_manifest

    branch = [
        helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [helper.make_tensor_value_info(op, 1, None)])
        for op in ("Abs", "Neg")
    ]
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Cast", ["s"], ["c"], to=9),
             helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])]  # fmt: skip
    with pytest.raises(UnsupportedError, match="holds If, whose work depends on values; nothing is predicted"):
        predict(save(tmp_path / "if.onnx", nodes, (2, 2), {}), PROBE)
    write_manifest(replace(read_artifact(artifact), format="tflite"))
    with pytest.raises(UnsupportedError, match="is in the format tflite; a latency is predicted of onnx only"):
        predict(artifact, PROBE)


def test_a_probe_without_the_kernel_is_refused_by_name(tmp_path, linear):
    from dataclasses import replace

    bare = replace(PROBE, points=tuple(p for p in PROBE.points if p.kind != "matmul"))
    with pytest.raises(UnsupportedError, match="the probe has no matmul in float32, which MatMul needs; probe again"):
        predict(linear, bare)
