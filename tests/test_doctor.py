import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgepress.compress.doctor import examine

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def found() -> dict:
    return examine()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What is found by a Python that has edgepress's files and no packages at all."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "edgepress").symlink_to(ROOT, target_is_directory=True)
    code = "import json; from edgepress.compress.doctor import examine; print(json.dumps(examine()))"
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_the_python_that_runs_is_named(found):
    assert found["python"] == platform.python_version()
    assert found["executable"] == sys.executable
    assert found["platform"] == platform.platform()


def test_versions_are_those_installed(found):
    versions = {name: v for use in found["uses"].values() for name, v in use["versions"].items()}
    assert versions["numpy"] == version("numpy")
    assert versions["onnxruntime"] == version("onnxruntime")
    assert versions["sklearn"] == version("scikit-learn")


def test_where_everything_is_installed_all_is_ready_and_nothing_to_do(found):
    assert all(use["ready"] for use in found["uses"].values())
    assert not [use["install"] for use in found["uses"].values() if use["install"]]


def test_where_nothing_is_installed_each_use_has_the_line_that_installs_it(bare):
    assert {use: state["install"] for use, state in bare["uses"].items()} == {
        "run, report, verify and inspect ONNX": "pip install 'edgepress'",
        "run, report, verify and inspect TFLite": "pip install 'edgepress[litert]'",
        "run, report, verify and inspect GGUF": "pip install 'edgepress[gguf]'",
        "run a text model on text": "pip install 'edgepress[text]'",
        "compress and export": "pip install 'edgepress[compress]'",
        "export to TFLite": "pip install 'edgepress[tflite]'",
        "draw what explain found": "pip install 'edgepress[plot]'",
        "the digits sample": "pip install 'edgepress[samples]'",
    }
    for state in bare["uses"].values():
        assert not state["ready"]
        assert set(state["versions"].values()) == {None}


def test_what_a_line_installs_is_what_its_use_needs(bare):
    base = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for state in bare["uses"].values():
        extra = re.fullmatch(r"pip install 'edgepress(?:\[(\w+)\])?'", state["install"])
        assert extra is not None
        brought = {Requirement(line).name for line in [*base, *closure(extra[1])]}
        called = {"sklearn": "scikit-learn", "llama_cpp": "llama-cpp-python"}
        assert {called.get(name, name).replace("_", "-") for name in state["versions"]} <= brought


def closure(extra: str | None) -> list[str]:
    """The requirements of an extra, those of the extras that it names included."""
    lines = EXTRAS[extra] if extra else []
    inner = [name for line in lines if Requirement(line).name == "edgepress" for name in Requirement(line).extras]
    return [*lines, *(line for name in inner for line in closure(name))]
