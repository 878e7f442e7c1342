"""Providers by name: what each is, and what a name that is none gets."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.runtime.errors import EngineError, UnknownName, UsageError
from edgepress.runtime.providers import PROVIDERS, asked_for, chosen_of, refuse_others, short, unit_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_says_its_unit_and_where_it_comes_from(name: str):
    provider = PROVIDERS[name]
    assert provider.full.endswith("ExecutionProvider")
    assert provider.unit in ("npu", "gpu", "xnnpack", "cpu")
    assert name == "cpu" or provider.comes
    assert name.split("-")[0] == short(provider.full)


def test_where_the_npu_is_simulated_it_is_a_chip_by_name():
    simulated = platform.machine().lower() in ("x86_64", "amd64")
    assert ("soc_model" in PROVIDERS["qnn"].options) == simulated
    assert "soc_model" not in PROVIDERS["qnn-gpu"].options


def test_names_are_taken_short_or_in_full_and_once():
    assert asked_for("CPU") == ("cpu",)
    assert asked_for(["QNNExecutionProvider", "qnn", "cpu"]) == ("qnn", "cpu")
    assert asked_for(["cuda"], ["CUDAExecutionProvider"]) == ("cuda",)


def test_no_name_at_all_is_refused():
    with pytest.raises(UsageError, match="no execution provider is named; expected one or several, as cpu"):
        asked_for([])


def test_a_name_that_nobody_knows_lists_those_of_the_table_and_of_the_build():
    with pytest.raises(UnknownName, match=r"unknown execution provider 'tpu'; known: acl, .*cpu, cuda, .*xnnpack"):
        asked_for(["cpu", "tpu"], ["CUDAExecutionProvider"])


def test_of_several_names_for_one_provider_the_one_that_was_asked_for_is_meant():
    assert chosen_of("OpenVINOExecutionProvider", ["openvino-npu", "cpu"]) == "openvino-npu"
    assert unit_of("OpenVINOExecutionProvider", ["openvino-npu", "cpu"]) == "npu"
    assert unit_of("OpenVINOExecutionProvider") == "cpu"
    assert unit_of("CUDAExecutionProvider") == "cuda"


def test_an_engine_without_providers_refuses_those_of_the_other():
    refuse_others(["cpu", "qnn"], ("cpu",), "LiteRT")
    with pytest.raises(EngineError, match="qnn is one of ONNX Runtime's providers; LiteRT runs on cpu"):
        refuse_others(["qnn", "cpu"], ("cpu",), "LiteRT")
    with pytest.raises(UnknownName, match="'tpu'; known: cpu"):
        refuse_others("tpu", ("cpu",), "LiteRT")


# What is tried where the provider is really installed: an artifact that is handed over, and what `load` makes of it.
TRIAL = """\
import sys, warnings
from edgepress.runtime import load
from edgepress.runtime.place import place
path, *names = sys.argv[1:]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = load(path, providers=names, threads=1)
found = place(path, providers=model.asked, threads=1)
print(model.asked, sorted(model.placement.counts().items()), sorted(found.ms), model.selftest().passed)
for warning in said:
    print(warning.category.__name__, warning.message)
"""


def trial(python: Path, folder: Path, artifact: Path, *names: str) -> list[str]:
    """Run TRIAL with another Python, which has NumPy, an ONNX Runtime, and this repository on its path."""
    (folder / "edgepress").symlink_to(ROOT)
    done = subprocess.run(
        [python, "-c", TRIAL, artifact, *names], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_openvino_runs_where_it_is_installed_and_its_missing_units_are_stepped_down_from(
    artifact: Path, tmp_path: Path
):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "onnxruntime-openvino"]
    subprocess.run(install, check=True, capture_output=True)
    said = trial(python, tmp_path, artifact, "openvino-npu", "openvino", "cpu")
    assert said[0] == "('openvino', 'cpu') [('openvino', 1)] ['openvino'] True"
    assert said[1].startswith("SteppedDown")
    assert "does not run on openvino-npu, and goes on with openvino: openvino-npu does not start" in said[1]
