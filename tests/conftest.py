"""Fixtures that several tests share."""

# --- artifacts: tiny real ONNX files in real artifact folders (test_bench, test_links, test_measure, test_report) ---

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from edgepress.devices.measure import Alone, Row
from edgepress.runtime.artifact import GOLDEN, Artifact, Port, describe, read_artifact, write_manifest
from edgepress.runtime.golden import Case, SelfTest, write_golden
from edgepress.runtime.machine import Disturbance, Machine
from edgepress.runtime.timing import Timing

MakeArtifact = Callable[..., Artifact]


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory) -> MakeArtifact:
    """`make_artifact(name, width=..., depth=..., golden=..., batch=...)`: an exported multilayer perceptron.

    y = W_n relu(... relu(W_1 x)), x float32[batch, 64], y float32[batch, 10], with its golden sample and its labels.
    """
    root = tmp_path_factory.mktemp("artifacts")

    def make(name: str, *, width: int = 16, depth: int = 1, golden: bool = True, batch: int = 2) -> Artifact:
        folder = root / f"{name}-{width}-{depth}-{golden}-{batch}" / name
        if folder.exists():
            return read_artifact(folder)
        folder.mkdir(parents=True)
        x = np.random.default_rng(1).standard_normal((batch, 64)).astype(np.float32)
        y = _write_perceptron(folder / "model.onnx", x, width=width, depth=depth)
        names = ["model.onnx"]
        if golden:
            write_golden(folder / GOLDEN, [Case({"x": x}, {"y": y})])
            names.append(GOLDEN)
        artifact = Artifact(
            path=folder,
            format="onnx",
            files=tuple(describe(folder / n, "model" if n == "model.onnx" else "golden") for n in names),
            inputs=(Port("x", "float32", ("batch", 64)),),
            outputs=(Port("y", "float32", ("batch", 10)),),
            tolerance=1e-5,
        )
        write_manifest(artifact)
        return artifact

    return make


def _write_perceptron(path: Path, x: np.ndarray, *, width: int, depth: int) -> np.ndarray:
    """Write the ONNX file; returns what NumPy makes of `x` with the same weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = [64, *([width] * depth), 10]
    nodes, weights, y, last = [], [], x, "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        w = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        final = i == len(sizes) - 2
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], ["y" if final else f"h{i}"]))
        y, last = y @ w, f"h{i}"
        if not final:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            y, last = np.maximum(y, 0), f"r{i}"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return y


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """`make_row(name, bytes, ms=..., memory=..., score=...)`: 20 rounds of 5 samples around `ms`, run "1"."""

    def make(
        name: str,
        size: int,
        *,
        ms: float | Sequence[float] | None = 1.0,
        memory: int | None = 60_000_000,
        score: Mapping[str, float] | None = None,
        run: str = "1",
    ) -> Row:
        per_round = [ms] * 20 if isinstance(ms, float) else ms
        timing = None if per_round is None else _timing(name, per_round, run)
        alone = None if timing is None else Alone(10.0, 2.0, 150.0, memory)
        path = Path("out") / name
        return Row(name, path, "onnx", size, "0" * 64, "host", timing, alone, score, SelfTest(2, 1e-7, 1e-5))

    return make


def _timing(name: str, per_round: Sequence[float], run: str) -> Timing:
    return Timing(
        name=name,
        run=run,
        load_ms=None,
        first_run_ms=None,
        cold_start_ms=None,
        rounds=tuple((0.99 * ms, ms, ms, ms, 1.01 * ms) for ms in per_round),
        peak_memory=None,
        threads=1,
        providers=("CPUExecutionProvider",),
        shapes={"x": (2, 64)},
        batch=2,
        machine=Machine("x86_64", "a processor", 2, 4096, "Linux 6", "3.11.7", None, None, None, 0.1),
        disturbance=Disturbance(1.0, None, None, 3),
    )


# --- end of artifacts ---
