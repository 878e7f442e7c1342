"""MACs of a `.tflite` file: the multiply-accumulates of each operator of its first graph, whose shapes are fixed.

FULLY_CONNECTED    |y|·k            w [n, k]
CONV_2D            |y|·h·w·c        w [o, h, w, c]
DEPTHWISE_CONV_2D  |y|·h·w          w [1, h, w, o]
BATCH_MATMUL       |y|·k
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from .tflite_file import read_file, shape

Shape = tuple[int, ...]

# Operator -> count(shapes of its inputs, shape of its output).
COUNTS: dict[str, Callable[[Sequence[Shape], Shape], int]] = {
    "FULLY_CONNECTED": lambda inputs, y: math.prod(y) * inputs[1][-1],
    "CONV_2D": lambda inputs, y: math.prod(y) * math.prod(inputs[1][1:]),
    "CONV_3D": lambda inputs, y: math.prod(y) * math.prod(inputs[1][:4]),
    "DEPTHWISE_CONV_2D": lambda inputs, y: math.prod(y) * math.prod(inputs[1][1:3]),
    "TRANSPOSE_CONV": lambda inputs, y: math.prod(inputs[2]) * math.prod(inputs[1][:3]),
    "BATCH_MATMUL": lambda inputs, y: math.prod(y) * (math.prod(inputs[0][-2:]) // y[-2]),  # either may lie transposed
}


def macs(path: Path) -> list[int | None]:
    """Multiply-accumulates of each operator of the first graph, in its order; None for one that does none.

    >>> sum(count or 0 for count in macs(Path("out/digits/model.tflite")))
    12206720
    """
    file = read_file(path)
    graph = file.model.subgraphs[0]

    def count(operator: object) -> int | None:
        name, tensors = file.name_of(operator), graph.tensors
        if name not in COUNTS:
            return None
        inputs = [shape(tensors[i]) if i >= 0 else () for i in operator.inputs]  # pyright: ignore[reportAttributeAccessIssue]
        return COUNTS[name](inputs, shape(tensors[operator.outputs[0]]))  # pyright: ignore[reportAttributeAccessIssue]

    return [count(operator) for operator in graph.operators]
