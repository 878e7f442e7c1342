"""Place: open an artifact and say which node runs on which unit. One program for the laptop and the device.

    python -m edgepress.runtime.place DIR --provider qnn --provider cpu --threads 1

prints the placement as JSON. A process of its own: its stderr is read for reasons, and a vendor's library that ends the
process takes nobody with it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from . import ort_profile
from .artifact import GOLDEN, Artifact, read_artifact
from .errors import UnsupportedError
from .golden import first_inputs
from .invented import invent
from .placement import Placement, to_json
from .program import answer
from .session import ENGINES

RUNS = 10


def place(
    path: str | Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",), runs: int = RUNS
) -> Placement:
    """Where each node of an artifact or a bare file runs; ONNX Runtime tells reasons and times too.

    It is run on its first golden sample, or on invented inputs. Raises UnsupportedError for a format whose engine names
    no nodes, EngineError where the file does not open or the first provider does not start, and what `load` raises.

    >>> place("out/digits-int8").share("cpu")
    1.0
    """
    artifact = read_artifact(path)
    if artifact.format not in _PLACES:
        known = ", ".join(_PLACES)
        raise UnsupportedError(f"{artifact.path} is in the format {artifact.format}, which names no nodes; {known} do")
    return _PLACES[artifact.format](artifact, threads, providers, runs)


def example(artifact: Artifact) -> Mapping[str, np.ndarray]:
    """The inputs of one call: the first golden sample, or invented ones for a bare file."""
    golden = artifact.asset(GOLDEN)
    if golden is not None:
        return first_inputs(golden)
    return {port.name: invent(port) for port in ENGINES[artifact.format](artifact.model).inputs}


def _onnx(artifact: Artifact, threads: int | None, providers: Sequence[str], runs: int) -> Placement:
    inputs = example(artifact)
    return ort_profile.placement(artifact.model, threads=threads, providers=providers, inputs=inputs, runs=runs)


def _tflite(artifact: Artifact, threads: int | None, providers: Sequence[str], runs: int) -> Placement:
    """LiteRT's Python library has no profiler: no times."""
    engine = ENGINES["tflite"](artifact.model, threads=threads, providers=providers)
    return Placement(engine.placed(), ("xnnpack", "cpu"))


_PLACES: dict[str, Callable[[Artifact, int | None, Sequence[str], int], Placement]] = {
    "onnx": _onnx,
    "tflite": _tflite,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, place, print. Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="edgepress.runtime.place", description="Say where nodes run; prints JSON.")
    parser.add_argument("path", metavar="DIR", help="an artifact's folder, or a bare model file")
    parser.add_argument("--provider", action="append", metavar="NAME", help="execution provider, in order (cpu)")
    parser.add_argument("--threads", type=int, default=None, help="the engine's threads (one per core)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"calls to time ({RUNS})")
    asked = parser.parse_args(arguments)
    providers = asked.provider or ("cpu",)
    return answer(lambda: to_json(place(asked.path, threads=asked.threads, providers=providers, runs=asked.runs)))


if __name__ == "__main__":
    sys.exit(main())
