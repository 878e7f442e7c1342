"""LiteRT bench: what LiteRT's own `benchmark_model` is asked for, and what it prints, for TFLite files.

It tells the average of its runs and not each run: a doubt says so, and no percentile is made of averages. It warms up
for half a second by itself. *Load* is what it calls Init (the file, the interpreter, the delegates), the first run its
first inference; when its process started is not told.

Source: tensorflow/lite/tools/benchmark/benchmark_model.cc (OnBenchmarkEnd, Run), whose lines are

    INFO: count=50 first=42468 curr=41938 min=41938 max=42840 avg=42394.8 std=188 p5=42133 median=42419 p95=42671
    INFO: Inference timings in us: Init: 207799, First inference: 90710, Warmup (avg): 48230.2, Inference (avg): 42394.8
    INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2383
"""

import re

from ..runtime.tflite_notes import first_shapes
from .tool_bench import Call, Told, Tool, lines_of, not_understood

_N = r"([\d.]+(?:e[+-]?\d+)?)"  # a C++ stream turns to 1.23457e+06 from seven digits on
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_N}, First inference: {_N}, Warmup \(avg\): {_N}, Inference \(avg\): {_N}"
)
_COUNT = re.compile(r"\bcount=(\d+)")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_N}")


def arguments(call: Call) -> list[str]:
    """The arguments of one call: `runs` runs, or as many as fit into `limit_s` seconds."""
    settings = [f"--graph={call.model}", f"--num_runs={call.runs}", f"--max_secs={call.limit_s:g}"]
    settings += [] if call.threads is None else [f"--num_threads={call.threads}"]
    return [*settings, *(["--report_peak_memory_footprint=true"] if call.watched else [])]


def read_told(said: str) -> Told:
    """What the tool printed, taken apart. Raises DeviceError where that is something else.

    >>> read_told(text).samples
    (42.3948,)
    """
    found, counts, peak = _TIMINGS.search(said), _COUNT.findall(said), _PEAK.search(said)
    if found is None or not counts:
        expected = "the line 'Inference timings in us: …' of LiteRT's benchmark_model; name that one"
        raise not_understood(said, expected)
    init, first, _, average = (float(number) / 1000 for number in found.groups())
    memory = None if peak is None else int(float(peak[1]) * 2**20)
    return Told(init, first, (average,), memory, averaged=int(counts[-1]))


def complaint(said: str) -> str:
    """The first error that the tool tells, for the last one is `Benchmarking failed`; else its last line, or ""."""
    lines = lines_of(said)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return next(iter(errors), lines[-1] if lines else "")


TOOL = Tool(
    name="benchmark_model",
    engine="LiteRT",
    invents="the inputs of the first graph",
    arguments=arguments,
    read=read_told,
    complaint=complaint,
    shapes=lambda artifact: first_shapes(artifact.model),  # its first graph is the one that the tool runs
)
