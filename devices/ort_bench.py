"""ONNX Runtime bench: what its own `onnxruntime_perf_test` is asked for, and what it prints, for ONNX files.

Each run stands in the file of results, which the link prints after what the tool said: real samples. Before them the
tool runs the file once only, in a new process on a processor that slept; half a second more goes uncounted, which is
what LiteRT's tool takes. *Load* is what it calls session creation, the first run is told in whole ms.

With `-I` it makes the inputs itself, of 1 along each free axis, and `-f AXIS:SIZE` fixes one: to the size in the first
golden sample. With `-S` floats and 8 bit integers are random, all others 0.

Source: onnxruntime/test/perftest/command_args_parser.cc (ParseArguments), performance_runner.cc (Run, DumpToFile):

    Session creation time cost: 0.0508382 s
    First inference time cost: 21 ms
    twice,0.0199182,109531136,12,0          the file of results: folder, s, peak working set in bytes, CPU in %, number
"""

import re

from ..runtime.artifact import GOLDEN, Artifact
from ..runtime.golden import first_inputs
from ..runtime.session import load
from .tool_bench import RESULTS, Call, Told, Tool, lines_of, not_understood

_N = r"([\d.]+(?:e[+-]?\d+)?)"
_LOAD = re.compile(rf"^Session creation time cost: {_N} s", re.MULTILINE)
_FIRST = re.compile(rf"^First inference time cost: {_N} ms", re.MULTILINE)
_RUN = re.compile(rf"^.*,{_N},(\d+),-?\d+,\d+$", re.MULTILINE)
_AXIS = re.compile(r"[^\s:?]+")  # what `-f` can name; `?` is an axis without a name


def arguments(call: Call) -> list[str]:
    """The arguments of one call. The tool has no limit of seconds beside that of runs."""
    sizes = [part for axis, size in _sizes(call.artifact).items() for part in ("-f", f"{axis}:{size}")]
    threads = [] if call.threads is None else ["-x", str(call.threads)]
    return ["-I", "-S", "1", "-m", "times", "-r", str(call.runs), *threads, *sizes, call.model, RESULTS]


def read_told(said: str) -> Told:
    """What the tool printed and its file of results, taken apart. Raises DeviceError where that is something else.

    >>> read_told(text).samples
    (19.9182, 19.8561)
    """
    load_s, first, runs = _LOAD.search(said), _FIRST.search(said), _RUN.findall(said)
    if not runs:
        raise not_understood(said, "a line for each run of ONNX Runtime's onnxruntime_perf_test; name that one")
    return Told(
        load_ms=None if load_s is None else 1000 * float(load_s[1]),
        first_ms=None if first is None else float(first[1]),
        samples=tuple(1000 * float(seconds) for seconds, _ in runs),
        peak_memory=int(runs[-1][1]),
    )


def complaint(said: str) -> str:
    """The last line, or ""; it says what failed, unless it only names the help."""
    lines = lines_of(said)
    return next((line for line in reversed(lines) if not line.startswith("See '")), next(iter(lines), ""))


def shapes(artifact: Artifact) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs that the tool makes, by name. A bare file is opened here to see them."""
    sizes, ports = _sizes(artifact), load(artifact.path).inputs if artifact.bare else artifact.inputs
    return {p.name: tuple(a if isinstance(a, int) else sizes.get(a, 1) for a in p.shape) for p in ports}


def _sizes(artifact: Artifact) -> dict[str, int]:
    """The size of each free axis that has a name, in the first golden sample; none where there is no sample."""
    golden = artifact.asset(GOLDEN)
    given = {} if golden is None else first_inputs(golden)
    return {
        axis: size
        for port in artifact.inputs
        if port.name in given
        for axis, size in zip(port.shape, given[port.name].shape, strict=False)  # a file may not state its ranks
        if isinstance(axis, str) and _AXIS.fullmatch(axis)
    }


TOOL = Tool(
    name="onnxruntime_perf_test",
    engine="ONNX Runtime",
    invents="the inputs, and fixes the free axes",
    arguments=arguments,
    read=read_told,
    complaint=complaint,
    shapes=shapes,
    warm_ms=500.0,
    beside=("libonnxruntime.so", "libc++_shared.so"),
)
