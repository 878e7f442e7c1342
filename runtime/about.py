"""About: what a machine tells of itself, as JSON: `python -m edgepress.runtime.about`. A link's first question.

{"machine": {"arch": "aarch64", …}, "formats": ["onnx"], "saturates": false, "versions": {"onnxruntime": "1.32.0"}}
"""

import json
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import Any

from .machine import saturates, this_machine

# Format -> the library of its engine, and the distribution that brings it.
_LIBRARIES = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "tflite": ("ai_edge_litert", "ai-edge-litert"),
    "gguf": ("llama_cpp", "llama-cpp-python"),
}


def about() -> dict[str, Any]:
    """The machine, the formats whose engine is installed, whether int8 products saturate, and versions.

    >>> about()["formats"]
    ['onnx']
    """
    formats = [form for form, (library, _) in _LIBRARIES.items() if find_spec(library) is not None]
    wanted = [("numpy", "numpy"), *(_LIBRARIES[form] for form in formats)]
    return {
        "machine": asdict(this_machine()),
        "formats": formats,
        "saturates": saturates(),
        "versions": {name: _version(library, name) for library, name in wanted},
    }


def _version(library: str, distribution: str) -> str | None:
    """The version of a distribution, or of the one that brings the library: a build of another name, or none at all."""
    try:
        return version(distribution)
    except PackageNotFoundError:  # onnxruntime-gpu, onnxruntime-openvino
        others = packages_distributions().get(library, [])
        return version(others[0]) if others else None


def main() -> int:
    """Print it."""
    print(json.dumps(about()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
