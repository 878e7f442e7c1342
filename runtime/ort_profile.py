"""What ONNX Runtime tells of a file beyond its outputs: who took each node, why others did not, and each one's time.

Assignment comes from its own record, times from its profiler, reasons from the log of the provider that refused.
"""

import json
import os
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import ort
from .errors import EngineError
from .placement import Placement
from .providers import asked_for, chosen_of

_VERBOSE = 0
# QNN's words: the nodes of a unit that it refused, and then why.
_REFUSED = re.compile(r"Operator type: (?P<op>\S+) Node name: (?P<name>.*) Node index: \d+\s*$")
_REASON = re.compile(r"REASON : (?P<why>.*)$")

Arrays = Mapping[str, np.ndarray]


def placement(
    path: Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",), inputs: Arrays, runs: int = 10
) -> Placement:
    """A file's nodes, reasons, and the median time of a call by provider, of `runs` calls after a first one.

    The profiler slows each node by a microsecond or so: the times are for shares, not for reports. Raises what
    `open_session` raises, and EngineError where the file does not run on `inputs`.
    """
    asked = asked_for(providers, ort.build_has())
    with tempfile.TemporaryDirectory() as folder:
        session = ort.open_session(path, threads=threads, providers=providers, profile=Path(folder) / "events")
        nodes = ort.placed(session, providers)
        for _ in range(runs + 1):
            try:
                session.run(None, dict(inputs))
            except ort.failures() as error:
                raise EngineError(f"ONNX Runtime stopped: {ort.first_line(error)}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    if any(node.provider != asked[0] for node in nodes):
        why = _reasons(path, threads, providers)
        nodes = tuple(
            replace(node, reason=why.get(node.name, "")) if node.provider != asked[0] else node for node in nodes
        )
    return Placement(nodes, asked, {chosen_of(full, asked): ms for full, ms in times(events).items()})


def times(events: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """Milliseconds of a call by provider, from a profile's events: the median over the calls but the first."""
    calls = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")
    by_call: list[dict[str, float]] = [defaultdict(float) for _ in calls]
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        for (begin, end), spent in zip(calls, by_call, strict=True):
            if begin <= event["ts"] <= end:
                spent[event["args"]["provider"]] += event["dur"] / 1000
    names = {name for spent in by_call for name in spent}
    return {name: statistics.median(spent.get(name, 0.0) for spent in by_call[1:] or by_call) for name in sorted(names)}


def reasons(log: str) -> Mapping[str, str]:
    """Why a provider refused a node, by the node's name, from its log; the first reason that it gives."""
    found: dict[str, str] = {}
    unit: list[str] = []
    for line in log.splitlines():
        if node := _REFUSED.search(line):
            unit.append(node["name"])
        elif why := _REASON.search(line):
            for name in unit:
                found.setdefault(name, why["why"].strip().rstrip("."))
            unit = []
    return found


def _reasons(path: Path, threads: int | None, providers: Sequence[str]) -> Mapping[str, str]:
    """Open the file once more, and read what is logged meanwhile."""
    with tempfile.TemporaryFile() as log:
        with _stderr_into(log.fileno()):
            ort.open_session(path, threads=threads, providers=providers, severity=_VERBOSE)
        log.seek(0)
        return reasons(log.read().decode(errors="replace"))


@contextmanager
def _stderr_into(descriptor: int) -> Iterator[None]:
    """The process's stderr, which libraries write to past Python, goes elsewhere: for a process of its own."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
