import json

import numpy as np
import pytest

from edgepress.export.kernels import write_kernels
from edgepress.runtime import ort
from edgepress.runtime.probe import KERNELS, Kernel


@pytest.fixture(scope="module", params=["uint8", "int8"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels") / request.param
    write_kernels(path, request.param)
    return path


def listed(folder) -> list[Kernel]:
    return [Kernel(**raw) for raw in json.loads((folder / KERNELS).read_text(encoding="utf-8"))]


def test_the_files_are_small_and_each_is_named_once(folder):
    kernels = listed(folder)
    assert len({kernel.file for kernel in kernels}) == len(kernels)
    assert {path.name for path in folder.iterdir()} == {KERNELS, *(kernel.file for kernel in kernels)}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 150_000


def test_products_are_there_in_each_precision_and_work_is_reuse_times_weights(folder):
    kernels = listed(folder)
    assert {k.precision for k in kernels if k.kind == "matmul"} == {"float32", "int8", "int4"}
    assert {k.precision for k in kernels if k.kind == "conv"} == {"float32", "int8"}
    for kernel in kernels:
        if kernel.kind in ("matmul", "conv", "depthwise"):
            assert kernel.work == kernel.reuse * kernel.weights


def test_each_kernel_runs_and_keeps_its_numbers_in_range(folder):
    for kernel in listed(folder):
        engine = ort.start(folder / kernel.file, threads=1)
        (port,) = engine.inputs
        (y,) = engine.run({port.name: np.ones(port.shape, port.dtype)}).values()
        assert np.isfinite(y).all(), kernel.file
        assert y.dtype.kind != "f" or 1e-6 < np.abs(y).max() < 1e6 or kernel.kind in ("gelu", "norm"), kernel.file


def test_the_engine_runs_as_many_nodes_as_the_kernel_says(folder):
    """Nothing is folded, fused or dropped but the constants, or the figures would be of something else."""
    for kernel in listed(folder):
        placed = ort.start(folder / kernel.file, threads=1).placed()
        ops = [node.op for node in placed]
        assert max(map(ops.count, set(ops))) == kernel.repeats, (kernel.file, ops)
