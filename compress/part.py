"""Where the files of a pair part: the inputs are brought into the shapes that both files have, and bisect.py looks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..export.parity import Arrays, Pair, Sample
from ..runtime.errors import EdgepressError
from ..runtime.session import LoadedModel

if TYPE_CHECKING:
    from ..export.bisect import File, Parting
    from .source import Task

_NO_SOURCE = "name the model with --source, and the layer where they part is named"
_NO_LAYER = "no layer stands out: the error adds up over many"


@dataclass(frozen=True)
class Parted:
    """A pair that breaks its limits: the layer where it parts, or why none is named."""

    pair: Pair
    layer: "Parting | None"
    reason: str = ""


def part(
    pairs: Sequence[Pair], models: Mapping[str, LoadedModel], samples: Sequence[Sample], source: "Task | None",
    tell: Callable[[str], None],
) -> Iterator[Parted]:  # fmt: skip
    """Each pair with the layer where it parts. What is in no model's name is the source itself."""
    if source is None or not pairs:
        yield from (Parted(pair, None, _NO_SOURCE) for pair in pairs)
        return
    from ..export.bisect import bisect
    from ..export.follow import operations
    from ..export.values import READABLE

    tell("tracing the source")
    try:
        graph = operations(source.model)
    except EdgepressError as error:
        yield from (Parted(pair, None, str(error)) for pair in pairs)
        return
    for pair in pairs:
        tell(f"looking for the layer where {pair.a} and {pair.b} part")
        files = [_file(name, models.get(name)) for name in (pair.a, pair.b)]
        if closed := [file.name for file in files if file.path is not None and file.format not in READABLE]:
            yield Parted(pair, None, f"what is computed inside {closed[0]} cannot be read")
            continue
        try:
            inputs = shared_inputs(source.model.example, samples[pair.worst].inputs, files)
            found = bisect(graph, inputs, *files) if inputs is not None else None
            reason = "" if found else _NO_LAYER if inputs is not None else "they have other fixed shapes"
        except EdgepressError as error:
            found, reason = None, str(error)
        yield Parted(pair, found, reason)


def _file(name: str, model: LoadedModel | None) -> "File":
    from ..export.bisect import File
    from ..export.precision import precision_of

    if model is None:
        return File(name, None, "", "float32")
    return File(name, model.artifact.model, model.artifact.format, precision_of(model.artifact))


def shared_inputs(example: Mapping[str, object], inputs: Arrays, files: Sequence["File"]) -> Arrays | None:
    """One sample of `inputs`, padded or cut to the fixed shapes that a file has; None where two files have others."""
    from ..export.values import fixed_shapes

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        fixed = fixed_shapes(file.path, file.format) if file.path is not None else {}
        if any(shapes.setdefault(name, shape) != shape for name, shape in fixed.items()):
            return None
    return {name: _shaped(inputs[name], shapes.get(name)) for name in example}


def _shaped(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The first sample, with zeros behind it up to a fixed shape."""
    if shape is None:
        return array[:1] if array.ndim else array
    cut = array[tuple(map(slice, shape))]
    return np.pad(cut, [(0, size - have) for size, have in zip(shape, cut.shape, strict=True)])
