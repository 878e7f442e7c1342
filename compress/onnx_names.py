"""Names from an ONNX file as names that Python and torch take: identifiers for ports, dotted paths for modules."""

import keyword
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import fx

from .onnx_file import Graph, Node
from .onnx_layers import LAYERS

_TAKEN = {"graph", "code", "meta", "training"}  # attributes of a GraphModule that its class does not show


def identifiers(names: Iterable[str]) -> list[str]:
    """Each name as a Python identifier, no two alike.

    >>> identifiers(["input.1", "input:1", "class"])
    ['input_1', 'input_1_2', 'class_']
    """
    result: list[str] = []
    for name in map(_identifier, names):
        free = (name, *(f"{name}_{i}" for i in range(2, len(result) + 3)))
        result.append(next(n for n in free if n not in result))
    return result


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not name or name[0].isdigit():
        name = f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else name


def module_names(graph: Graph) -> Mapping[str, str]:
    """A dotted path for each node that may become a layer, by the node's first output.

    In this order: the weight's name where it ends in `.weight`, as torch writes it; the module that torch's exporter
    noted; the node's own path. No path leads through another one, for then one layer would lie in another.
    """
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    candidates = {node.outputs[0]: _candidates(node, uses) for node in graph.nodes if node.op in LAYERS}
    taken = _Paths({parent for paths in candidates.values() for parent in _parents(paths[0])})
    return {output: taken.take(paths) for output, paths in candidates.items()}


class _Paths:
    """The paths given so far, and the folders that must stay free for the first choices."""

    def __init__(self, folders: set[str]) -> None:
        self.folders = folders
        self.leaves: set[str] = set()

    def take(self, paths: list[str]) -> str:
        """The first path that is free; else the last one, flat and numbered."""
        count, path = 1, next((p for p in paths if self._is_free(p)), "")
        while not path:
            numbered = f"{paths[-1].replace('.', '_')}_{(count := count + 1)}"
            path = numbered if self._is_free(numbered) else ""
        self.leaves.add(path)
        self.folders.update(_parents(path))
        return path

    def _is_free(self, path: str) -> bool:
        return path not in self.folders and self.leaves.isdisjoint((path, *_parents(path)))


def _parents(path: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _candidates(node: Node, uses: Mapping[str, int]) -> list[str]:
    data, _ = LAYERS[node.op]
    weight = next((name for i, name in enumerate(node.inputs) if i != data and name), "")
    own = weight.removesuffix(".weight") if weight.endswith(".weight") and uses[weight] == 1 else ""
    path = _path(node.name or node.outputs[0])
    parent, _, last = path.rpartition(".")
    short = parent if re.fullmatch(rf"{node.op}(_\d+)?", last) else ""
    return [c for c in (_path(own), _path(node.scope), short, path) if c] or [node.op]


def _path(name: str) -> str:
    """`/encoder/layer.0/query/MatMul` -> `encoder.layer.0.query.MatMul`."""
    parts = (re.sub(r"\W+", "_", part, flags=re.ASCII) for part in re.split(r"[./]", name))
    return ".".join(f"{p}_" if hasattr(fx.GraphModule, p) or p in _TAKEN else p for p in parts if p)
