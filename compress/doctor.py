"""doctor: what is installed, what that opens, and the line that installs the rest."""

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from typing import Any

# What a person may want to do -> the extra that it needs, and the libraries that the extra brings.
_USES: dict[str, tuple[str, tuple[str, ...]]] = {
    "run, report, verify and inspect ONNX": ("", ("numpy", "onnxruntime")),
    "run, report, verify and inspect TFLite": ("litert", ("numpy", "ai_edge_litert")),
    "run, report, verify and inspect GGUF": ("gguf", ("numpy", "llama_cpp")),
    "run a text model on text": ("text", ("tokenizers",)),
    "compress and export": ("compress", ("torch", "onnx", "onnxscript", "safetensors", "tokenizers", "transformers")),
    "export to TFLite": ("tflite", ("torch", "litert_torch", "ai_edge_litert")),
    "draw what explain found": ("plot", ("matplotlib",)),
    "the digits sample": ("samples", ("torch", "sklearn")),
}


def examine() -> dict[str, Any]:
    """What this environment can do, by use: ready or not, versions, and the line that installs what is missing."""
    packages = importlib.metadata.packages_distributions()  # onnxruntime comes from several (onnxruntime-gpu, …)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "uses": {use: _examine(extra, libraries, packages) for use, (extra, libraries) in _USES.items()},
    }


def _examine(extra: str, libraries: tuple[str, ...], packages: Mapping[str, list[str]]) -> dict[str, Any]:
    found = {name: importlib.metadata.version(packages[name][0]) if name in packages else None for name in libraries}
    ready = all(found.values())
    package = f"edgepress[{extra}]" if extra else "edgepress"
    return {"ready": ready, "versions": found, "install": "" if ready else f"pip install '{package}'"}
