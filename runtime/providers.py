"""PROVIDERS: ONNX Runtime's execution providers by short name, each with the unit it computes on and how it is started.

    load("out/net", providers=("qnn", "openvino-gpu", "cpu"))       # the NPU, else the GPU, else the CPU

A name stands for a provider with all its settings; another device or backend of one provider is another name. What a
build of ONNX Runtime has besides goes by its own name (`CUDAExecutionProvider`, short `cuda`).
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import EngineError, UnknownName, UsageError

_SUFFIX = "ExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """How a provider is started: `full` is its name in ONNX Runtime, `unit` where it computes: npu, gpu, xnnpack, cpu.

    `options` are handed to it as they are; `threads` names the one that takes the number of threads. `plugin` is the
    Python package that holds it as a library of its own. `fixed` providers take no node whose shapes have a free axis.
    `comes` says where a build with it is from.
    """

    full: str
    unit: str
    options: Mapping[str, str] = field(default_factory=dict)
    threads: str = ""
    plugin: str = ""
    fixed: bool = False
    comes: str = ""


_OPENVINO = "it comes with: pip install onnxruntime-openvino, in place of onnxruntime"
_QNN = "it comes with: pip install onnxruntime-qnn"
# On x86-64 the NPU is simulated. A chip that is not named computes no float Gelu and no float table of 30,000 words
# ("Memory allocation related error., Code: 1002"); 57, which is SM8650, does.
_SIMULATED = {"soc_model": "57"} if platform.machine().lower() in ("x86_64", "amd64") else {}
_ANDROID = "ONNX Runtime's package for Android has it"

# Short name -> the provider, ready to start. Sources: ONNX Runtime's pages on each provider, and its own refusals.
PROVIDERS: dict[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu"),
    "xnnpack": Provider(
        "XnnpackExecutionProvider", "xnnpack", threads="intra_op_num_threads",
        comes="ONNX Runtime's packages for Android and iOS have it, and builds with --use_xnnpack",
    ),
    "qnn": Provider(
        "QNNExecutionProvider", "npu", {"backend_type": "htp", **_SIMULATED}, plugin="onnxruntime_qnn", fixed=True,
        comes=_QNN,
    ),
    "qnn-gpu": Provider(
        "QNNExecutionProvider", "gpu", {"backend_type": "gpu"}, plugin="onnxruntime_qnn", fixed=True, comes=_QNN
    ),
    "nnapi": Provider("NnapiExecutionProvider", "npu", fixed=True, comes=_ANDROID),
    "coreml": Provider(
        "CoreMLExecutionProvider", "npu", {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        comes="onnxruntime for macOS has it, and its package for iOS",
    ),
    "openvino": Provider("OpenVINOExecutionProvider", "cpu", {"device_type": "CPU"}, "num_of_threads", comes=_OPENVINO),
    "openvino-gpu": Provider("OpenVINOExecutionProvider", "gpu", {"device_type": "GPU"}, comes=_OPENVINO),
    "openvino-npu": Provider("OpenVINOExecutionProvider", "npu", {"device_type": "NPU"}, fixed=True, comes=_OPENVINO),
    "acl": Provider("ACLExecutionProvider", "cpu", comes="builds with --use_acl have it"),
}  # fmt: skip


def short(name: str) -> str:
    """A provider's short name: `cpu` for CPUExecutionProvider.

    >>> short("CPUExecutionProvider")
    'cpu'
    """
    return name.removesuffix(_SUFFIX).lower()


def asked_for(names: Sequence[str], available: Iterable[str] = ()) -> tuple[str, ...]:
    """Short names in order, each once; `available` are full names that a build has. A single name may be given as text.

    Raises UnknownName for a name that neither the table nor the build knows, UsageError for no name.

    >>> asked_for(["CPU", "CPUExecutionProvider"])
    ('cpu',)
    """
    given, known = (names,) if isinstance(names, str) else tuple(names), {*PROVIDERS, *map(short, available)}
    if not given:
        raise UsageError("no execution provider is named; expected one or several, as cpu")
    for name in given:
        if short(name) not in known:
            raise UnknownName("execution provider", name, known)
    return tuple(dict.fromkeys(map(short, given)))


def refuse_others(names: Sequence[str], known: Sequence[str], engine: str) -> None:
    """For an engine that starts no providers: raise EngineError where the first is one of ONNX Runtime's.

    Raises UnknownName for a name that nobody knows.
    """
    asked = tuple(map(short, (names,) if isinstance(names, str) else names))
    for name in asked:
        if name not in {*known, *PROVIDERS}:
            raise UnknownName("execution provider", name, known)
    if (first := asked[0]) not in known:
        raise EngineError(f"{first} is one of ONNX Runtime's providers; {engine} runs on {' and '.join(known)}")


def unit_of(name: str, asked: Sequence[str] = ()) -> str:
    """The unit behind a provider, by its full or short name; of several with one full name the one `asked` for.

    A provider that is in no table is told by its own name.

    >>> unit_of("QNNExecutionProvider", ["qnn-gpu", "cpu"])
    'gpu'
    """
    return PROVIDERS[chosen].unit if (chosen := chosen_of(name, asked)) in PROVIDERS else chosen


def chosen_of(name: str, asked: Sequence[str] = ()) -> str:
    """The short name under which a provider was asked for: `openvino-gpu` for OpenVINOExecutionProvider."""
    for candidate in (*asked, *PROVIDERS):
        if candidate in PROVIDERS and PROVIDERS[candidate].full == name:
            return candidate
    return short(name)
