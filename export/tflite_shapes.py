"""Fixed shapes for a model with free axes: which lengths a file has, and whether padding and pieces leave it right.

    y(x) = cut(f(pad(x))),   y([x_1; x_2]) = [y(x_1); y(x_2)]

The runtime relies on both; here they are tried on the model's own example, in torch, before a file is written.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.artifact import Port
from ..runtime.errors import UnsupportedError, UsageError
from ..runtime.golden import difference
from ..runtime.tflite_notes import Notes, cut_back, sizes_of
from .model import Model
from .trace import first_line

# A sequence that nobody gave a length; an example that is longer takes its own.
DEFAULT_LENGTH = 128
# Float sums come in another order in a batch than alone; where they are rounded after that, some fall the other way.
_TOLERANCE, _ROUNDED = 1e-4, 5e-2
_DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.int32: "int32", torch.bool: "bool"}


def notes_of(model: Model, program: Any) -> Notes:
    """The model's ports, free axes by name, from its trace.

    Raises UnsupportedError for a type that the format has not, or an output axis that is more than a free axis.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    symbols: dict[str, str] = {}
    inputs = []
    for name, placeholder in zip(model.example, program.graph_signature.user_inputs, strict=True):
        value, axes = nodes[placeholder].meta["val"], model.axes.get(name, {})
        symbols |= {str(value.shape[axis]): label for axis, label in axes.items()}
        shape = tuple(axes.get(axis, size) for axis, size in enumerate(model.example[name].shape))
        inputs.append(Port(name, _dtype(model, name, value.dtype), shape))
    outputs = []
    for name, result in zip(model.outputs, program.graph_signature.user_outputs, strict=True):
        value = nodes[result].meta["val"]
        shape = tuple(_axis(model, name, size, symbols) for size in value.shape)
        outputs.append(Port(name, _dtype(model, name, value.dtype), shape))
    first = {port.shape[0] if port.shape else None for port in (*inputs, *outputs)}
    label = first.pop() if len(first) == 1 else None
    return Notes(tuple(inputs), tuple(outputs), label if isinstance(label, str) else "")


def _dtype(model: Model, name: str, dtype: torch.dtype) -> str:
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES.values())
        raise UnsupportedError(f"{model.name} has the port {name!r} in {dtype}; tflite files have {known}")
    return _DTYPES[dtype]


def _axis(model: Model, name: str, size: Any, symbols: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    if str(size) in symbols:
        return symbols[str(size)]
    said = re.sub(r"[A-Za-z_]\w*", lambda m: symbols.get(m.group(), m.group()), str(size))
    raise UnsupportedError(
        f"{model.name}: output {name!r} has the length {said}, which no padding can be cut back to; leave the axis out "
        "of the free axes"
    )


def lengths_of(model: Model, notes: Notes) -> list[dict[str, int]]:
    """The lengths of the free axes in each signature, one for each combination; the axis of pieces is 1 long.

    Raises UsageError for a length of an axis that the model has not, or below 1.
    """
    sizes = sizes_of(notes.inputs, model.example)
    if unknown := set(model.lengths) - set(sizes):
        known = ", ".join(sizes) or "none"
        raise UsageError(f"a length is set for {sorted(unknown)[0]!r}; the free axes of {model.name} are: {known}")
    choices = []
    for label, size in sizes.items():
        chosen = (1,) if label == notes.pieces else (max(size, DEFAULT_LENGTH),)
        chosen = model.lengths.get(label, chosen)
        if not chosen or min(chosen) < 1:
            raise UsageError(f"the lengths of {label!r} are {list(chosen)}; expected numbers from 1 on")
        choices.append([(label, length) for length in sorted(set(chosen))])
    return [dict(combination) for combination in itertools.product(*choices)]


def example_at(model: Model, notes: Notes, lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """The example cut, or padded with zeros, to these lengths."""
    return {port.name: _fitted(model.example[port.name], port, lengths) for port in notes.inputs}


def _fitted(tensor: Tensor, port: Port, lengths: Mapping[str, int]) -> Tensor:
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.shape]
    part = tensor[tuple(map(slice, shape))]
    fitted = tensor.new_zeros(shape)
    fitted[tuple(map(slice, part.shape))] = part
    return fitted


def refuse_mixing(model: Model, notes: Notes, signatures: Sequence[Mapping[str, int]], *, rounds: bool = False) -> None:
    """Run the example as the runtime will, in torch. Raises UnsupportedError where that gives other numbers.

    `model` computes with floats, for a scale that is taken over a whole call would differ for that alone; `rounds`
    says that it rounds some of them with scales that are fixed.
    """
    whole = {name: tensor.numpy() for name, tensor in model(**model.example).items()}
    lengths = signatures[-1]
    padded = {label: size for label, size in lengths.items() if label != notes.pieces}
    for first, example in _pieces(model, notes, lengths):
        sizes = sizes_of(notes.inputs, example)
        if any(sizes[label] > length for label, length in padded.items()):
            return  # the example does not fit: nothing can be said
        target = {**sizes, **padded}
        given = {port.name: _fitted(example[port.name], port, target) for port in notes.inputs}
        outputs = _run(model, given, target)
        for port in notes.outputs:
            cut = cut_back(outputs[port.name], port, sizes)
            count = sizes.get(notes.pieces, 0)
            expected = whole[port.name][first : first + count] if notes.pieces else whole[port.name]
            if not difference(cut, np.asarray(expected)) <= (_ROUNDED if rounds else _TOLERANCE):
                what = f"padded with zeros along {', '.join(padded)}" if padded else "run one sample at a time"
                axes = ", ".join([*padded, *([notes.pieces] if notes.pieces else [])])
                raise UnsupportedError(
                    f"{model.name} gives other numbers at {port.name!r} when it is {what}, as files of fixed shapes "
                    f"are; leave {axes} out of the free axes, or give the model a mask"
                )


def _run(model: Model, given: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    try:
        return {name: tensor.numpy() for name, tensor in model(**given).items()}
    except (RuntimeError, IndexError, ValueError, TypeError) as error:  # as where a table has fewer positions
        said = ", ".join(f"{label} {size}" for label, size in lengths.items())
        raise UnsupportedError(
            f"{model.name} does not run at {said}: {first_line(error)}; set --lengths that it has"
        ) from error


def _pieces(model: Model, notes: Notes, lengths: Mapping[str, int]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The example in pieces along the axis of pieces, each with the place of its first sample."""
    if not notes.pieces:
        yield 0, dict(model.example)
        return
    count, step = len(next(iter(model.example.values()))), lengths[notes.pieces]
    for first in range(0, count, step):
        yield first, {name: tensor[first : first + step] for name, tensor in model.example.items()}
