"""Follow a file through its source: which of its values belong to which layer, and how exact each layer is in the file.

    ŷ_i = f_i(x)        x: what the file itself computed before the layer i, wherever it shows that
    e_i = ‖y_i − ŷ_i‖ / ‖ŷ_i‖,      y_i: the value of the file that is nearest to ŷ_i, its axes in any order

Each layer is computed anew in torch from the file's own values before it, so that e_i is the error of that layer alone,
whatever came in already. Names are not needed: files lose them. A layer whose value is not found is fused into a later
one, or wrong; it is wrong where nothing that is computed from it is found either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .model import Model
from .trace import evaluating, module_of, quiet, trace
from .values import Value

# A value of fewer numbers tells too little to be found by.
_LEAST = 4
# What is larger masks something; one file writes the lowest float there, another -1e9, and neither is compared.
_MASK = 1e8
# What gives the numbers that it got, in another order or shape.
_LAYOUT = {"clone", "contiguous", "dropout", "expand", "flatten", "permute", "reshape", "squeeze", "to", "transpose",
           "unsqueeze", "view"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation of the source: the name of its module, what it does, and what a file shows of it.

    `expected` is ŷ, `value` the file's nearest to it, in the same layout, and `error` its e. `found`: e is small enough
    for the value to be this layer's. `found_after`: so is that of something computed from it.
    `reads` are the numbers of the operations before it.
    """

    module: str
    operation: str
    expected: np.ndarray
    value: np.ndarray | None
    error: float
    found: bool
    found_after: bool
    reads: tuple[int, ...]

    @property
    def lost(self) -> bool:
        """True where the file goes another way from here on."""
        return not (self.found or self.found_after)


def operations(model: Model) -> fx.GraphModule:
    """The source as a graph of its operations. Raises UnsupportedError where it cannot be traced."""
    with evaluating(model.module):
        return trace(model).module()


def follow(graph: fx.GraphModule, inputs: Sequence[np.ndarray], values: Sequence[Value], near: float) -> list[Layer]:
    """The graph's operations in their order, each with what a file shows of it. `values` are the file's, for `inputs`.

    `near` is the largest e of a value that is taken for a layer's.
    """
    follower = _Follower(graph, values, near)
    with quiet(), torch.no_grad():
        follower.run(*(torch.from_numpy(np.array(array)) for array in inputs))
    return follower.layers()


class _Follower(fx.Interpreter):
    """Runs the source, and goes on from the file's values wherever they are found."""

    def __init__(self, module: fx.GraphModule, values: Sequence[Value], near: float) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.near = near
        self.by_size: dict[int, list[Value]] = {}
        for value in values:
            self.by_size.setdefault(value.array.size, []).append(value)
        nodes: list[fx.Node] = list(self.graph.nodes)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        self.matters = _reached(nodes, "placeholder", forward=True) & _reached(nodes, "output", forward=False)
        self.nodes = nodes
        self.seen: dict[fx.Node, Layer] = {}
        self.number: dict[fx.Node, int] = {}
        self.taken: dict[int, list[fx.Node]] = {}  # place of a value -> the layers that it was taken for

    def run_node(self, n: fx.Node) -> Any:
        """What the layer computes, or what the file says that it computed."""
        expected = super().run_node(n)
        computed = n.op == "call_function" and isinstance(expected, Tensor) and expected.is_floating_point()
        if not computed or expected.numel() < _LEAST or n not in self.matters:
            return expected
        wanted = expected.float().numpy()
        value, array, error = _nearest(self.by_size.get(wanted.size, ()), wanted)
        found = value is not None and error <= self.near
        reads = tuple(self.number[before] for before in n.all_input_nodes if before in self.number)
        self.number[n] = len(self.seen)
        self.seen[n] = Layer(module_of(n), _operation(n), wanted, array, error, found, False, reads)
        if not found:
            return expected
        assert value is not None
        if self.seen[n].operation not in _LAYOUT:
            self.taken.setdefault(value.place, []).append(n)
        return torch.from_numpy(np.where(np.abs(wanted) < _MASK, array, wanted)).to(expected.dtype)

    def layers(self) -> list[Layer]:
        """What was seen; a value belongs to the layer that it is nearest to of all that it was taken for."""
        for nodes in self.taken.values():
            least = min(self.seen[node].error for node in nodes)
            for node in nodes:
                if self.seen[node].error > 10 * least + 1e-6:
                    self.seen[node] = replace(self.seen[node], found=False)
        after: dict[fx.Node, bool] = {}
        for node in reversed(self.nodes):
            found = (after[user] or (user in self.seen and self.seen[user].found) for user in node.users)
            after[node] = any(found)
        return [replace(layer, found_after=after[node]) for node, layer in self.seen.items()]


def _reached(nodes: Sequence[fx.Node], start: str, *, forward: bool) -> set[fx.Node]:
    """What is computed from the nodes of a kind, or what they are computed from: no weights alone, no dead ends."""
    found = {node for node in nodes if node.op == start}
    for node in nodes if forward else reversed(nodes):
        near = node.all_input_nodes if forward else list(node.users)
        if not found.isdisjoint(near):
            found.add(node)
    return found


def _nearest(values: Sequence[Value], expected: np.ndarray) -> tuple[Value | None, np.ndarray, float]:
    """The nearest value, in the expected layout, and its relative error."""
    counts = np.abs(expected) < _MASK
    wanted = np.where(counts, expected, 0)
    norm = max(float(np.linalg.norm(wanted)), 1e-12)
    best: tuple[Value | None, np.ndarray, float] = None, expected, float("inf")
    for value in values:
        for array in _layouts(value.array, expected.shape):
            error = float(np.linalg.norm(np.where(counts, array, 0) - wanted)) / norm
            if error < best[2]:
                best = value, np.ascontiguousarray(array), error
    return best


def _layouts(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The array in this shape: as it lies in memory, and with its axes in every other order that fits."""
    yield array.reshape(shape)
    dense = array.squeeze()
    wanted = tuple(size for size in shape if size != 1)
    if sorted(dense.shape) == sorted(wanted) and 1 < dense.ndim <= 4:
        for order in permutations(range(dense.ndim)):
            if order != tuple(range(dense.ndim)) and tuple(dense.shape[axis] for axis in order) == wanted:
                yield dense.transpose(order).reshape(shape)


def _operation(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]
