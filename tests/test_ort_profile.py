"""What ONNX Runtime tells: who has a node, the time of a call by provider, and the reasons in a log."""

from pathlib import Path

import numpy as np
import pytest

from edgepress.runtime.errors import EngineError
from edgepress.runtime.ort_profile import placement, reasons, times

# Lines that QNN's provider wrote (ONNX Runtime 1.32, onnxruntime-qnn 2.7) for a file with a free axis.
LOG = """\
2026-01-01 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation FAILED for 2 nodes in OrtNodeUnit:
\tOperator type: DequantizeLinear Node name: node_DequantizeLinear_41 Node index: 64
\tOperator type: Gemm Node name: node_linear Node index: 67
\tREASON : Failed to add node.

2026-01-01 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit:
\tOperator type: Relu Node name: a name with spaces Node index: 1
\tREASON : Cannot get shape
"""


def test_nodes_are_placed_and_a_call_is_timed(make_artifact):
    path = make_artifact("net", width=64, depth=3).model
    found = placement(path, threads=1, inputs={"x": np.ones((2, 64), np.float32)}, runs=3)
    assert [node.op for node in found.nodes].count("MatMul") == 4
    assert {node.provider for node in found.nodes} == {"cpu"}
    assert list(found.ms) == ["cpu"]
    assert found.ms["cpu"] > 0


def test_an_input_that_does_not_fit_is_an_error_of_the_engine(linear: Path):
    with pytest.raises(EngineError, match="ONNX Runtime stopped"):
        placement(linear, inputs={"x": np.ones((1, 7), np.float32)})


def test_a_providers_time_is_the_median_of_its_sums_over_the_calls_but_the_first():
    def node(at: int, duration: int, provider: str) -> dict:
        return {"cat": "Node", "name": "n_kernel_time", "ts": at, "dur": duration, "args": {"provider": provider}}

    calls = [{"cat": "Session", "name": "model_run", "ts": 100 * i, "dur": 90} for i in range(4)]
    events = [*calls, node(1, 80, "A"), node(101, 2, "A"), node(110, 4, "A"), node(120, 1, "B"), node(201, 8, "A")]
    events += [node(301, 7, "A"), {"cat": "Node", "name": "n_fence_before", "ts": 302, "dur": 9, "args": {}}]
    assert times(events) == {"A": 0.007, "B": 0.0}


def test_a_reason_goes_to_each_node_of_the_unit_that_was_refused():
    assert reasons(LOG) == {
        "node_DequantizeLinear_41": "Failed to add node",
        "node_linear": "Failed to add node",
        "a name with spaces": "Cannot get shape",
    }


def test_a_log_without_refusals_gives_no_reasons():
    assert reasons("All nodes placed on [CPUExecutionProvider]. Number of nodes: 1\nREASON : none\n") == {}
