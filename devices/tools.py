"""Tools: the engines' command line benchmarks that a device may be given, and which of them a file is.

A file is the tool whose name it holds, whatever else stands there: `android_aarch64_benchmark_model`.
"""

from collections.abc import Sequence
from pathlib import Path

from ..runtime.errors import UsageError
from . import litert_bench, ort_bench
from .tool_bench import Tool

# Format -> what times it.
TOOLS: dict[str, Tool] = {"tflite": litert_bench.TOOL, "onnx": ort_bench.TOOL}


def by_format(paths: Sequence[Path]) -> dict[str, Path]:
    """The tools' files by the formats that they run. Raises UsageError for a name that is no tool's, and for a second
    tool of one format. No file is looked at.

    >>> by_format([Path("tools/benchmark_model")])
    {'tflite': PosixPath('tools/benchmark_model')}
    """
    found: dict[str, Path] = {}
    for path in paths:
        form = next((form for form, tool in TOOLS.items() if tool.name in path.name), None)
        if form is None:
            raise UsageError(f"{path} is no benchmark that edgepress knows; expected {names()}, by this name")
        if form in found:
            raise UsageError(f"{found[form]} and {path} both run {form}; name one of them")
        found[form] = path
    return found


def names() -> str:
    """All tools in words: `LiteRT's benchmark_model (tflite) or …`."""
    return " or ".join(f"{tool} ({form})" for form, tool in TOOLS.items())


def beside(form: str, path: Path) -> list[Path]:
    """The libraries that lie beside a format's tool and go with it."""
    return [library for name in TOOLS[form].beside if (library := path.with_name(name)).is_file()]
