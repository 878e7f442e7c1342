"""Bisect: the first layer where two files of one model part, by the name that it has in the source.

Both files are followed through the source (follow.py), so each layer's error is its own. They part at the layer where
one file's way is lost, or else at the one whose error is most times what rounding makes of a layer, and of the same
layer in the other file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import fx

from .follow import Layer, follow
from .values import file_values

# The relative error that rounding makes of one layer, and the largest that is still taken for it, by precision.
# Measured on the digits networks: float32 3e-7, int8 1e-2 to 2e-2; 4 bits in blocks 1e-1.
_ROUNDING = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2, "int4": 1e-1}
_NEAR = {"float32": 2e-2, "float16": 5e-2, "int8": 0.2, "int4": 0.4}
# Below this many times of that, no single layer stands out.
_STANDS_OUT = 2.0


@dataclass(frozen=True)
class File:
    """A file to follow: its name, path, format and precision. The source itself has the path None."""

    name: str
    path: Path | None
    format: str
    precision: str


@dataclass(frozen=True)
class Parting:
    """Where two files part: `modules` of the source (several where the file fuses them), and the operation.

    `file` is the one that is further from the source there, `errors` are those of both. `index` is where the two differ
    most, in the source's layout; `values` are what both have there, `expected` what the source makes of what the file
    read.
    """

    modules: tuple[str, ...]
    operation: str
    file: str
    errors: tuple[float, float]
    index: tuple[int, ...]
    values: tuple[float, float]
    expected: float


def bisect(graph: fx.GraphModule, inputs: Mapping[str, np.ndarray], a: File, b: File) -> Parting | None:
    """Where `a` and `b` part on `inputs`, which have shapes that both files take; None where no layer stands out.

    `graph` is what `follow.operations` makes of the source, `inputs` are in the order of its own. Raises EngineError
    where a file does not run.
    """
    left, right = (_layers(graph, inputs, file) for file in (a, b))
    worst: tuple[float, int] = 0.0, 0
    for index, (mine, other) in enumerate(zip(left, right, strict=True)):
        if mine.lost != other.lost and (other if mine.lost else mine).found:
            worst = float("inf"), index
            break
        if mine.found and other.found:
            low, high = sorted((mine.error / _ROUNDING[a.precision], other.error / _ROUNDING[b.precision]))
            worst = max(worst, (high / max(low, 1.0), index), key=lambda seen: seen[0])
    if worst[0] < _STANDS_OUT:
        return None
    return _parting(left, right, worst[1], a, b)


def _layers(graph: fx.GraphModule, inputs: Mapping[str, np.ndarray], file: File) -> list[Layer]:
    values = [] if file.path is None else file_values(file.path, file.format, inputs)
    layers = follow(graph, list(inputs.values()), values, _NEAR[file.precision])
    if file.path is not None:
        return layers
    return [Layer(x.module, x.operation, x.expected, x.expected, 0.0, True, True, x.reads) for x in layers]


def _parting(left: Sequence[Layer], right: Sequence[Layer], index: int, a: File, b: File) -> Parting:
    mine, other = left[index], right[index]
    relative = mine.error / _ROUNDING[a.precision], other.error / _ROUNDING[b.precision]
    wrong, file = (right, b) if (other.lost, relative[1]) > (mine.lost, relative[0]) else (left, a)
    x, y = (layer.expected if layer.value is None else layer.value for layer in (mine, other))
    expected = wrong[index].expected
    place = tuple(map(int, np.unravel_index(int(np.abs(x - y).argmax()), x.shape)))
    return Parting(
        modules=_fused(wrong, index),
        operation=mine.operation,
        file=file.name,
        errors=(mine.error, other.error),
        index=place,
        values=(float(x[place]), float(y[place])),
        expected=float(expected[place]),
    )


def _fused(layers: Sequence[Layer], index: int) -> tuple[str, ...]:
    """The layer's module, those before it that the file shows no value of, and a normalization that it folds in."""
    waiting, numbers = [index], {index}
    while waiting:
        for number in layers[waiting.pop()].reads:
            if not layers[number].found and number not in numbers:
                numbers.add(number)
                waiting.append(number)
    numbers |= {
        number
        for number, layer in enumerate(layers)
        if layer.operation == "batch_norm" and not layer.found and numbers.intersection(layer.reads)
    }
    return tuple(dict.fromkeys(layers[number].module for number in sorted(numbers)))
