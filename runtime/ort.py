"""The ONNX Runtime engine. The library is imported when a session starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Port
from .errors import EngineError, MissingExtra, UnknownName, UsageError

# ONNX Runtime's type names -> NumPy's. What is missing here is refused by name.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
# A provider may be written short: `cpu` for CPUExecutionProvider.
_SUFFIX = "ExecutionProvider"
# It calls a service, and is in every build.
_REMOTE = {"azure"}
# Measured 9-18 % slower than the separate nodes on int8 encoders (1 thread, x86-64, ONNX Runtime 1.32).
_DISABLED = ["SkipLayerNormFusion"]


@dataclass(frozen=True)
class OrtEngine:
    """One open file: its ports, the providers in use, and `run(inputs) -> outputs` by name; it needs nothing else."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    needs: Mapping[str, Any] = field(default_factory=dict)


def start(
    path: Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",), content: bytes | None = None
) -> OrtEngine:
    """Open an ONNX file, or its `content` where it lies in parts. `threads=None` leaves the number to the engine.

    Raises EngineError where the file cannot be opened, UnknownName for a provider that this build has not, UsageError
    where `threads` is below 1.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtra("onnxruntime") from error
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1, or None for one per core")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what matters is raised; the rest would reach the user's terminal
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    failures = _failures(ort)
    try:
        session = ort.InferenceSession(
            str(path) if content is None else content,
            options,
            providers=_resolve(providers, ort),
            disabled_optimizers=_DISABLED,
        )
    except failures as error:
        raise EngineError(f"ONNX Runtime cannot open {path}: {_first_line(error)}") from error
    return OrtEngine(
        inputs=tuple(_port(node, path) for node in session.get_inputs()),
        outputs=tuple(_port(node, path) for node in session.get_outputs()),
        providers=tuple(session.get_providers()),
        run=_runner(session, failures),
    )


def _runner(session: Any, failures: tuple[type[Exception], ...]) -> Callable[..., dict[str, np.ndarray]]:
    names = [node.name for node in session.get_outputs()]
    session_run = session.run

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session_run(names, inputs)))  # noqa: B905 - one for each name; strict takes 0.3 µs
        except failures as error:
            raise EngineError(f"ONNX Runtime stopped: {_first_line(error)}") from error

    return run


def providers() -> tuple[str, ...]:
    """What this build can run on, the CPU last; what sends a model elsewhere is none of them."""
    import onnxruntime as ort

    names = [name.removesuffix(_SUFFIX).lower() for name in ort.get_available_providers()]
    return tuple(name for name in names if name not in _REMOTE)


def _resolve(providers: Sequence[str], ort: Any) -> list[str]:
    available = {name.removesuffix(_SUFFIX).lower(): name for name in ort.get_available_providers()}
    resolved = []
    for name in (providers,) if isinstance(providers, str) else providers:
        short = name.removesuffix(_SUFFIX).lower()
        if short not in available:
            raise UnknownName("execution provider", name, available)
        resolved.append(available[short])
    return list(dict.fromkeys(resolved))  # named twice, it would be a warning


def _port(node: Any, path: Path) -> Port:
    if node.type not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise EngineError(f"{path} has the port {node.name!r} of type {node.type}; expected one of: {known}")
    shape = tuple(axis if isinstance(axis, int) else (axis or "?") for axis in node.shape)
    return Port(node.name, _DTYPES[node.type], shape)


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exception types; they share no base class of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, ValueError, RuntimeError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
