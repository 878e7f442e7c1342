"""Bisect: the first layer where two files of one model part, by the name that it has in the source.

Both files are followed through the source (follow.py), so each layer's error is its own. They part at the layer where
one file's way is lost, or else at the one whose error is most times what rounding makes of a layer, and of the same
layer in the other file.
"""

from collections.abc import Callable, Mapping, Sequence
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
# Below this many times of that, no single layer stands out; where one is lost, an earlier one must stand out more.
_STANDS_OUT, _WHERE_ONE_IS_LOST = 2.0, 10.0


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
    ratios = [_ratio(left, right, index, a, b) for index in range(len(left))]
    finite = [ratio for ratio in ratios if ratio < float("inf")]
    least = max(_STANDS_OUT, max(finite, default=0.0) / 2) if len(finite) == len(ratios) else _WHERE_ONE_IS_LOST
    index = next((number for number, ratio in enumerate(ratios) if ratio >= least), None)
    return None if index is None else _parting(left, right, index, a, b)


def _ratio(left: Sequence[Layer], right: Sequence[Layer], index: int, a: File, b: File) -> float:
    """How many times as wrong one of the two is as rounding makes it, and as the other is; inf where one is lost."""
    mine, other = left[index], right[index]
    if mine.lost != other.lost and (other if mine.lost else mine).found:
        return float("inf")
    if not (mine.found and other.found):
        return 0.0
    errors = (max(layers[n].error for n in _segment(left, right, layers, index)) for layers in (left, right))
    low, high = sorted(e / _ROUNDING[file.precision] for e, file in zip(errors, (a, b), strict=True))
    return high / max(low, 1.0)


def _segment(left: Sequence[Layer], right: Sequence[Layer], shown: Sequence[Layer], index: int) -> list[int]:
    """The layer and what `shown` shows before it, back to where both files show a value: one of them may fuse these."""
    numbers = _before(index, left, lambda number: not (left[number].found and right[number].found))
    return [number for number in sorted(numbers) if shown[number].found or number == index]


def _layers(graph: fx.GraphModule, inputs: Mapping[str, np.ndarray], file: File) -> list[Layer]:
    values = [] if file.path is None else file_values(file.path, file.format, inputs)
    layers = follow(graph, list(inputs.values()), values, _NEAR[file.precision])
    if file.path is not None:
        return layers
    return [Layer(x.module, x.operation, x.expected, x.expected, 0.0, True, True, x.reads) for x in layers]


def _parting(left: Sequence[Layer], right: Sequence[Layer], index: int, a: File, b: File) -> Parting:
    worst = [max(_segment(left, right, side, index), key=lambda n: side[n].error) for side in (left, right)]
    relative = left[worst[0]].error / _ROUNDING[a.precision], right[worst[1]].error / _ROUNDING[b.precision]
    b_is_wrong = (right[index].lost, relative[1]) > (left[index].lost, relative[0])
    wrong, good = (right, left) if b_is_wrong else (left, right)
    index = _origin(wrong, good, worst[b_is_wrong])
    mine, other = left[index], right[index]
    x, y = (_shown(layer, layer is wrong[index]) for layer in (mine, other))
    place = tuple(map(int, np.unravel_index(int(np.abs(x - y).argmax()), x.shape)))
    return Parting(
        modules=_fused(wrong, good, index),
        operation=mine.operation,
        file=(b if b_is_wrong else a).name,
        errors=(mine.error, other.error),
        index=place,
        values=(float(x[place]), float(y[place])),
        expected=float(wrong[index].expected[place]),
    )


def _shown(layer: Layer, is_wrong: bool) -> np.ndarray:
    """What a file has for the layer; of a good one that fuses it, what it must have."""
    return layer.value if layer.value is not None and (is_wrong or layer.found) else layer.expected


def _origin(wrong: Sequence[Layer], good: Sequence[Layer], index: int) -> int:
    """The first layer on the way to this one that the good file shows and the wrong one does not."""
    before = _before(index, wrong, lambda number: not wrong[number].found)
    return min((number for number in before if good[number].found), default=index)


def _fused(wrong: Sequence[Layer], good: Sequence[Layer], index: int) -> tuple[str, ...]:
    """The layer's module, those before it that neither file shows a value of, and a normalization that it folds in."""
    numbers = _before(index, wrong, lambda number: not (wrong[number].found or good[number].found))
    numbers |= {
        number
        for number, layer in enumerate(wrong)
        if layer.operation == "batch_norm" and not layer.found and numbers.intersection(layer.reads)
    }
    return tuple(dict.fromkeys(wrong[number].module for number in sorted(numbers)))


def _before(index: int, layers: Sequence[Layer], passes: Callable[[int], bool]) -> set[int]:
    """The layer and all before it that are reached over layers which pass."""
    waiting, numbers = [index], {index}
    while waiting:
        for number in layers[waiting.pop()].reads:
            if number not in numbers and passes(number):
                numbers.add(number)
                waiting.append(number)
    return numbers
