"""Placement of an artifact on a device: the engine's own record, joined with the multiply-accumulates of each node.

The engine runs on the device (`python -m edgepress.runtime.place`); what its nodes cost is counted here, by name.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..devices.device import Device
from ..devices.links import connect
from ..runtime.artifact import Artifact, read_artifact
from ..runtime.errors import DeviceError, MissingExtra, UnknownName, UnsupportedError, UsageError
from ..runtime.place import example
from ..runtime.placement import Placed, Placement, from_json
from ..runtime.program import answered
from ..runtime.providers import PROVIDERS

TIMEOUT_S = 600.0
# What ONNX Runtime adds to a node's name when it fuses, doubles or lays it out anew.
_ADDED = re.compile(r"(?:/MatMulAddFusion|/duplicated|_nchwc|_token_\d+)+$")
_GATE = re.compile(r"\s*([a-z0-9-]+)\s*=\s*(\d+(?:\.\d+)?)\s*%\s*")


def place_on(
    path: Path, device: Device, providers: Sequence[str] = (), tell: Callable[[str], None] = lambda text: None
) -> Placement:
    """Where each node of an artifact or a bare file runs on a device, its multiply-accumulates, times by provider.

    `providers` stand in for the device's units. Raises DeviceError where the device has no address, or what happens
    there fails; UnsupportedError for a format whose engine names no nodes.
    """
    artifact = read_artifact(path)
    if not device.link:
        raise DeviceError(f"{device.name} has no address, so no engine can tell; name a device with one, as --on host")
    settings = replace(device, units=tuple(providers) or device.units).settings
    with _named(artifact) as file:
        named = read_artifact(file)
        tell("counting multiply-accumulates")
        counts = _counts(named)
        tell(f"asking the engine on {device.name}")
        link = connect(device.link)
        try:
            printed = link.run(["-m", "edgepress.runtime.place", link.put(file), *settings], TIMEOUT_S)
        finally:
            link.close()
    return counts(from_json(answered(printed)))


def read_gate(text: str) -> tuple[str, float] | None:
    """`npu=95%` as a unit (or a provider) and a share; None for no text. Raises UsageError for anything else.

    >>> read_gate("npu=95%")
    ('npu', 0.95)
    """
    if not text:
        return None
    match = _GATE.fullmatch(text.lower())
    if match is None or float(match[2]) > 100:
        raise UsageError(f"--require-unit {text}: expected a unit and its share of the work, as npu=95%")
    known = {provider.unit for provider in PROVIDERS.values()} | set(PROVIDERS)
    if match[1] not in known:
        raise UnknownName("unit", match[1], known)
    return match[1], float(match[2]) / 100


def misses(placement: Placement, gate: tuple[str, float] | None) -> str:
    """What a gate misses, in a sentence; "" where it holds."""
    if gate is None or placement.share(gate[0]) >= gate[1]:
        return ""
    return f"{placement.share(gate[0]):.1%} of the multiply-accumulates on {gate[0]}, {gate[1]:.1%} required"


def shares(artifact: Artifact, nodes: Sequence[Placed]) -> Mapping[str, float]:
    """The share of the multiply-accumulates of an artifact on each unit that has nodes of it, for `devices.measure`.

    Empty for a file without any. Raises UnsupportedError where the nodes cannot be told apart, or are of a format that
    nobody counts; MissingExtra, EngineError and ModelError where counting fails.

    >>> shares(artifact, (Placed("fc", "Gemm", "qnn", "npu"), Placed("act", "Relu", "cpu", "cpu")))
    {'npu': 1.0, 'cpu': 0.0}
    """
    if artifact.format not in ("onnx", "tflite"):
        raise UnsupportedError(f"nobody counts the multiply-accumulates of the format {artifact.format}")
    try:
        if artifact.format == "onnx" and not _names_differ(artifact.model):
            raise UnsupportedError("its nodes bear no names of their own; edgepress explain names them in a copy")
        found = _counts(artifact)(Placement(tuple(nodes)))
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "onnx", "compress") from error
    total = sum(found.macs().values()) + found.lost
    units = dict.fromkeys(node.unit for node in nodes)
    return {unit: sum(n.macs or 0 for n in found.nodes if n.unit == unit) / total for unit in units} if total else {}


def _counts(artifact: Artifact) -> Callable[[Placement], Placement]:
    """What adds the counts of a file to its placement."""
    if artifact.format == "tflite":
        try:
            from ..export.tflite_macs import macs as in_order
        except ImportError as error:
            raise MissingExtra("ai-edge-litert", "litert") from error
        listed = in_order(artifact.model)
        return lambda found: replace(
            found, nodes=tuple(replace(node, macs=n) for node, n in zip(found.nodes, listed, strict=True))
        )
    if artifact.format != "onnx":
        return lambda found: found  # the engine's refusal says which formats name nodes
    from ..export.macs import macs

    by_name = macs(artifact.model, example(artifact))
    return lambda found: with_macs(found, by_name)


def with_macs(placement: Placement, counts: Mapping[str, int]) -> Placement:
    """The placement with what each node counts; counts of nodes that the engine does not name are lost, and told so.

    >>> with_macs(Placement((Placed("fc/MatMulAddFusion", "Gemm", "cpu", "cpu"),)), {"fc": 640}).nodes[0].macs
    640
    """
    left = dict(counts)

    def counted(node: Placed) -> Placed:
        # a node and its double both bear the name: the first one has the count
        exact = node.name if node.name in left else _ADDED.sub("", node.name)
        return replace(node, macs=left.pop(exact)) if exact in left and node.op not in _OTHER else node

    nodes = tuple(counted(node) for node in placement.nodes)
    return replace(placement, nodes=nodes, lost=sum(left.values()))


# They may bear the name of what they were split from.
_OTHER = {"Transpose", "QuantizeLinear", "DequantizeLinear", "Cast"}


@contextmanager
def _named(artifact: Artifact) -> Iterator[Path]:
    """The artifact's path; where its ONNX nodes have no names, or one twice, that of a copy where each has its own."""
    if artifact.format != "onnx" or _names_differ(artifact.model):
        yield artifact.path
        return
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / artifact.path.name
        if artifact.bare:
            file = copy
        else:
            shutil.copytree(artifact.path, copy)
            file = copy / artifact.model.name
        model = onnx.load(str(artifact.model))
        for index, node in enumerate(model.graph.node):
            node.name = f"{node.op_type}_{index}"
        onnx.save(model, str(file))
        yield copy


def _names_differ(path: Path) -> bool:
    import onnx

    names = [node.name for node in onnx.load(str(path), load_external_data=False).graph.node]
    return len(set(names) - {""}) == len(names)
