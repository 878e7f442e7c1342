"""The ONNX Runtime engine. The library is imported when a session starts."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Port
from .errors import EngineError, MissingExtra, UsageError
from .placement import Placed
from .providers import PROVIDERS, asked_for, chosen_of, short, unit_of

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
# It calls a service, and is in every build.
_REMOTE = {"azure"}
# Measured 9-18 % slower than the separate nodes on int8 encoders (1 thread, x86-64, ONNX Runtime 1.32).
_DISABLED = ["SkipLayerNormFusion"]
# A session's record of who took which node; versions before 1.24 keep none.
_RECORD = "get_provider_graph_assignment_info"
_FIXED = "; it takes fixed shapes only: edgepress export ARTIFACT --on sm8650"


@dataclass(frozen=True)
class OrtEngine:
    """One open file: its ports, the providers in use, and `run(inputs) -> outputs` by name; it needs nothing else.

    `placed()` tells which node each provider took.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    placed: Callable[[], tuple[Placed, ...]]
    needs: Mapping[str, Any] = field(default_factory=dict)


def start(
    path: Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",), content: bytes | None = None
) -> OrtEngine:
    """Open an ONNX file, or its `content` where it lies in parts. `threads=None` leaves the number to the engine.

    Raises EngineError where the file cannot be opened, or the first provider is not in this build, does not start or
    takes no node of the file; UnknownName for a provider that nobody knows, UsageError where `threads` is below 1.
    """
    session = open_session(path, threads=threads, providers=providers, content=content)
    nodes = functools.cache(lambda: placed(session, providers))
    first = asked_for(providers, build_has())[0]
    if first != "cpu" and hasattr(session, _RECORD) and not any(node.provider == first for node in nodes()):
        why = _FIXED if first in PROVIDERS and PROVIDERS[first].fixed else ""
        raise EngineError(f"{first} takes none of the {len(nodes())} nodes of {path}{why}")
    return OrtEngine(
        inputs=tuple(_port(node, path) for node in session.get_inputs()),
        outputs=tuple(_port(node, path) for node in session.get_outputs()),
        providers=tuple(session.get_providers()),
        run=_runner(session, failures()),
        placed=nodes,
    )


def open_session(
    path: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    severity: int = 4,
    profile: Path | None = None,
    content: bytes | None = None,
) -> Any:
    """ONNX Runtime's own session, which records which provider takes which node; that costs nothing (see `placed`).

    `severity` is the least that it logs to stderr: by default nothing, for what matters is raised. With `profile` it
    writes its events to files whose names begin so. Raises what `start` does, and takes a file of which the first
    provider takes no node.
    """
    ort = _library()
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1, or None for one per core")
    asked = asked_for(providers, build_has())
    full = _full(asked[0])
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if asked[0] != "cpu":
        ort.set_default_logger_severity(severity)  # a provider that does not start says so there, past the session's
    try:
        with_plugin = _add_plugin(asked[0], options)
        ready = None if with_plugin else _ready(asked, threads)
        # without enable_fallback=0 a provider that fails is printed, and the CPU takes all
        session = ort.InferenceSession(
            str(path) if content is None else content, options, providers=ready, disabled_optimizers=_DISABLED,
            enable_fallback=0,
        )  # fmt: skip
    except failures() as error:
        raise EngineError(f"ONNX Runtime cannot open {path}: {first_line(error)}") from error
    if not with_plugin and full not in session.get_providers():  # a plugin that takes no node is not listed either
        raise EngineError(f"{asked[0]} does not start on this machine")
    return session


def placed(session: Any, providers: Sequence[str]) -> tuple[Placed, ...]:
    """The nodes of a session as the providers took them, before those fuse them further; 0.5 ms for 71 nodes.

    Raises EngineError where this version does not tell.
    """
    if not hasattr(session, _RECORD):
        raise EngineError("this ONNX Runtime does not tell where nodes run; 1.24 does: pip install -U onnxruntime")
    asked = asked_for(providers, build_has())
    return tuple(
        Placed(node.name, node.op_type, chosen_of(part.ep_name, asked), unit_of(part.ep_name, asked))
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def _library() -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtra("onnxruntime") from error
    return ort


def build_has() -> list[str]:
    """The full names of the providers of this build, without those that call a service."""
    return [name for name in _library().get_available_providers() if short(name) not in _REMOTE]


def _full(name: str) -> str:
    """ONNX Runtime's name of a provider. Raises EngineError where this build has it not."""
    full = PROVIDERS[name].full if name in PROVIDERS else {short(n): n for n in build_has()}[name]
    plugin = PROVIDERS[name].plugin if name in PROVIDERS else ""
    if full not in build_has() and not (plugin and importlib.util.find_spec(plugin)):
        raise EngineError(f"{name} is not in this build of ONNX Runtime; {PROVIDERS[name].comes}")
    return full


def _ready(asked: Sequence[str], threads: int | None) -> list[tuple[str, dict[str, str]]]:
    """The providers with their options; those that this build has not are left out."""
    by_full: dict[str, dict[str, str]] = {}
    for name in asked:
        full = PROVIDERS[name].full if name in PROVIDERS else name
        for there in build_has():
            if there == full or short(there) == full:
                by_full.setdefault(there, _options(name, threads))  # one provider has one set of options
    return list(by_full.items())


def _options(name: str, threads: int | None) -> dict[str, str]:
    if name not in PROVIDERS:
        return {}
    provider = PROVIDERS[name]
    counted = {provider.threads: str(threads)} if provider.threads and threads is not None else {}
    return {**provider.options, **counted}


def _add_plugin(name: str, options: Any) -> bool:
    """Start a provider that is a library of its own, where `name` is one and its package is here."""
    if name not in PROVIDERS or not PROVIDERS[name].plugin or not importlib.util.find_spec(PROVIDERS[name].plugin):
        return False
    ort, provider, full = _library(), PROVIDERS[name], _full(name)
    if not any(device.ep_name == full for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(full, importlib.import_module(provider.plugin).get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == full]
    if not devices:
        raise EngineError(f"{name} finds no device on this machine")
    fitting = [device for device in devices if device.device.type.name.lower() == provider.unit]
    options.add_provider_for_devices((fitting or devices)[:1], _options(name, None))
    return True


def _runner(session: Any, failures: tuple[type[Exception], ...]) -> Callable[..., dict[str, np.ndarray]]:
    names = [node.name for node in session.get_outputs()]
    session_run = session.run

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session_run(names, inputs)))  # noqa: B905 - one for each name; strict takes 0.3 µs
        except failures as error:
            raise EngineError(f"ONNX Runtime stopped: {first_line(error)}") from error

    return run


def providers() -> tuple[str, ...]:
    """What this build can run on, the CPU last; what sends a model elsewhere is none of them."""
    return tuple(map(short, build_has()))


def _port(node: Any, path: Path) -> Port:
    if node.type not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise EngineError(f"{path} has the port {node.name!r} of type {node.type}; expected one of: {known}")
    shape = tuple(axis if isinstance(axis, int) else (axis or "?") for axis in node.shape)
    return Port(node.name, _DTYPES[node.type], shape)


def failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exception types; they share no base class of their own."""
    state = _library().capi.onnxruntime_pybind11_state
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, ValueError, RuntimeError)


def first_line(error: Exception) -> str:
    """An error of ONNX Runtime's in a line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
