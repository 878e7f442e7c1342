"""Facts about an artifact, or about a file that somebody else made: what can be known is told, and what cannot."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..runtime.artifact import check, read_artifact
from ..runtime.session import load


def artifact_facts(path: Path) -> dict[str, Any]:
    """Ports, files, history, versions, and operators where the onnx package is installed.

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
        "operators": _operators(artifact.model),
    }
    if artifact.bare:
        return facts | {"unknown": "history, source, golden samples: a bare file has no manifest"}
    history = [{"name": step.name, "settings": dict(step.settings), "note": step.note} for step in artifact.history]
    more = {"source": dict(artifact.source), "tools": dict(artifact.tools), "tolerance": artifact.tolerance}
    return facts | {"history": history} | more


def _operators(path: Path) -> dict[str, int] | str:
    """How often each operator stands in the graph."""
    try:
        import onnx
    except ImportError:
        return "unknown: the onnx package is not installed; it comes with: pip install 'edgepress[compress]'"
    graph = onnx.load(str(path), load_external_data=False).graph
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node)
    return dict(counts.most_common())
