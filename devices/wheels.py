"""Wheels: whether the engines have some for the Python of a device, and how they are fetched here, for that Python."""

import json
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..runtime.errors import DeviceError
from .process import call, last_line

# Format -> the distribution of its engine, and the module to try. llama.cpp's has no wheels: it is built on the device.
ENGINE_WHEELS = {"onnx": ("onnxruntime", "onnxruntime"), "tflite": ("ai-edge-litert", "ai_edge_litert.interpreter")}
_LEAST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Target:
    """The Python of a device, as far as a wheel must fit it.

    `python` is its path there; `glibc` is the minor version, 36 for 2.36, and 0 where there is none.
    """

    python: str
    version: tuple[int, int]
    arch: str
    glibc: int


def read_target(said: str, host: str, *, wheels: bool = True) -> Target:
    """What the probe of `setup` printed, as a Target.

    Raises DeviceError where there is no Python that the runtime takes, and with `wheels` where no engine has some.
    """
    try:
        told = json.loads(said)
        version_ = (told["version"][0], told["version"][1])
        bits, libc, arch = told["bits"], told["libc"], told["arch"]
        glibc = int(told["libc_version"].partition(".")[2] or 0) if libc == "glibc" else 0
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DeviceError(f"{host} has no Python 3; there: sudo apt-get install python3 python3-venv") from error
    if version_ < _LEAST_PYTHON:
        seen = f"{host} has Python {version_[0]}.{version_[1]}, edgepress needs 3.11 or newer"
        raise DeviceError(f"{seen}; Raspberry Pi OS has it from 12 (bookworm) on")
    if wheels and bits != 64:
        seen = f"{host} runs a {bits}-bit system ({arch}), for which the engines have no wheels"
        raise DeviceError(f"{seen}; install a 64-bit one, as Raspberry Pi OS (64-bit)")
    if wheels and not glibc:
        seen = f"{host} has no glibc, which the engines' wheels need"
        raise DeviceError(f"{seen}; with NumPy and an engine of its own there: --own-packages")
    return Target(told["python"], version_, arch, glibc)


def requirements(engine: str) -> list[str]:
    """NumPy, and the engine in the version that judges here, so that both sides compute with the same code."""
    name = ENGINE_WHEELS[engine][0]
    try:
        return ["numpy", f"{name}=={version(name)}"]
    except PackageNotFoundError:
        return ["numpy", name]


def fetch_wheels(target: Target, wanted: list[str], folder: Path) -> None:
    """Download wheels that fit `target`, with what they need. Raises DeviceError where there are none."""
    major, minor = target.version
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--implementation", "cp"]
    command += ["--python-version", f"{major}.{minor}"]
    for glibc in range(target.glibc, 16, -1):
        command += ["--platform", f"manylinux_2_{glibc}_{target.arch}"]
    command += ["--platform", f"manylinux2014_{target.arch}"]
    done = call([*command, *wanted], None)  # pip gives up by itself where nothing comes
    if done.code:
        what = f"{', '.join(wanted)} for Python {major}.{minor} on {target.arch}"
        raise DeviceError(f"no wheels could be fetched here of {what}: {_pip_reason(done.errors) or last_line(done)}")


def _pip_reason(errors: str) -> str:
    """The first of pip's errors: the last line is about something else."""
    return next((line.removeprefix("ERROR: ") for line in errors.splitlines() if line.startswith("ERROR: ")), "")
