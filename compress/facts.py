"""Facts about an artifact, or about a file that somebody else made: what can be known is told, and what cannot."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runtime.artifact import check, read_artifact
from ..runtime.family import check_family, read_family
from ..runtime.gguf_file import read_gguf
from ..runtime.parts import whole
from ..runtime.session import load


def artifact_facts(path: Path) -> dict[str, Any]:
    """Ports, files, history, versions, and what is inside: operators where the package that reads them is installed.

    Raises ArtifactError where a file is damaged, EngineError where it does not open.
    """
    artifact = read_artifact(path)
    check(artifact)
    model = load(path, verify=False)
    facts: dict[str, Any] = {
        "path": str(path),
        "format": artifact.format,
        "bytes": artifact.bytes,
        "inputs": [str(port) for port in model.inputs],
        "outputs": [str(port) for port in model.outputs],
        "files": {
            file.name: {"bytes": file.bytes, "role": file.role, "sha256": file.sha256} for file in artifact.files
        },
        **_INSIDE[artifact.format](artifact.model),
    }
    if artifact.bare:
        return facts | {"unknown": "history, source, golden samples: a bare file has no manifest"}
    history = [{"name": step.name, "settings": dict(step.settings), "note": step.note} for step in artifact.history]
    more = {"source": dict(artifact.source), "tools": dict(artifact.tools), "tolerance": artifact.tolerance}
    needs = {"needs": dict(artifact.needs)} if artifact.needs else {}
    return facts | needs | {"history": history} | more


def family_facts(path: Path) -> dict[str, Any]:
    """What `family.json` tells, and the facts of each member by its format.

    Raises ArtifactError where a member is missing, damaged or was exchanged, EngineError where one does not open.
    """
    family = read_family(path)
    check_family(family)
    return {
        "path": str(path),
        "measured": None if family.measured is None else asdict(family.measured),
        "p50_ms": {form: member.p50_ms for form, member in family.members.items()},
        "parity": family.parity,
        "members": {form: artifact_facts(family.folder(form)) for form in family.members},
    }


def _onnx(content: bytes) -> dict[str, int] | str:
    """How often each operator stands in the graph."""
    try:
        import onnx
    except ImportError:
        return "unknown: the onnx package is not installed; it comes with: pip install 'edgepress[compress]'"
    graph = onnx.load_model_from_string(content).graph
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node)
    return dict(counts.most_common())


def _tflite(path: Path) -> dict[str, int] | str:
    """The same; a file with several lengths has a graph for each."""
    try:
        from ..export.tflite_file import read_file
    except ImportError:
        return "unknown: ai-edge-litert is not installed; it comes with: pip install 'edgepress[litert]'"
    return dict(Counter(name for _, _, name in read_file(path).operators()).most_common())


def _gguf(path: Path) -> dict[str, Any]:
    """What the header tells: the network's kind and size, its vocabulary, and in which types its weights are kept."""
    file = read_gguf(path)
    weights, held = (sum(getattr(t, name) for t in file.tensors) for name in ("size", "bytes"))
    kinds = sorted({tensor.type for tensor in file.tensors})
    by_kind = {kind: [tensor for tensor in file.tensors if tensor.type == kind] for kind in kinds}
    return {
        "architecture": file.architecture,
        "parameters": weights,
        "bits per weight": round(8 * held / max(weights, 1), 2),
        "tensors": {k: {"tensors": len(ts), "bytes": sum(t.bytes for t in ts)} for k, ts in by_kind.items()},
        "context length": file.setting("context_length"),
        "vocabulary": file.metadata.count("tokenizer.ggml.tokens"),
        "chat template": "yes" if file.metadata.get("tokenizer.chat_template") else "no",
    }


_INSIDE: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "onnx": lambda path: {"operators": _onnx(path.read_bytes())},
    "tflite": lambda path: {"operators": _tflite(path)},
    "gguf": _gguf,
    "web": lambda path: {"operators": _onnx(whole(path))},
}
