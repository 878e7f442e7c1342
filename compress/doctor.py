"""doctor: what is installed, what that opens, and the line that installs the rest."""

import importlib.metadata
import importlib.util
import platform
import sys
from typing import Any

# What a person may want to do -> the extra that it needs, and the libraries that the extra brings.
_USES: dict[str, tuple[str, tuple[str, ...]]] = {
    "run, report, verify and inspect ONNX": ("", ("numpy", "onnxruntime")),
    "run a text model on text": ("text", ("tokenizers",)),
    "compress and export": ("compress", ("torch", "onnx", "onnxscript", "safetensors", "tokenizers", "transformers")),
    "the digits sample": ("samples", ("torch", "sklearn")),
}
_PACKAGES = {"sklearn": "scikit-learn"}


def examine() -> dict[str, Any]:
    """What this environment can do, by use: ready or not, versions, and the line that installs what is missing."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "uses": {use: _examine(extra, libraries) for use, (extra, libraries) in _USES.items()},
    }


def _examine(extra: str, libraries: tuple[str, ...]) -> dict[str, Any]:
    versions = {name: _version(name) for name in libraries}
    missing = [name for name, version in versions.items() if version is None]
    package = f"edgepress[{extra}]" if extra else "edgepress"
    return {"ready": not missing, "versions": versions, "install": f"pip install '{package}'" if missing else ""}


def _version(library: str) -> str | None:
    if importlib.util.find_spec(library) is None:
        return None
    return importlib.metadata.version(_PACKAGES.get(library, library))
