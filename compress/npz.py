"""Samples in an `.npz` file, for a model that came as an ONNX file: batches to calibrate with, and a score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..export.model import Model
from ..runtime.arrays import read_arrays
from ..runtime.artifact import Port
from ..runtime.errors import DataError
from .data import Batch, Data, batches, checked, top1
from .fidelity import fidelity

_LABELS = "labels"
# Samples a batch where the model leaves it free, and samples that fidelity compares; more only takes time.
_BATCH, _JUDGED = 16, 256


def read_npz(model: Model, path: Path) -> tuple[Model, Data]:
    """The model with samples as its example (they become the golden inputs), and the data to compress it by.

    The file holds an array an input, samples along the first axis, and perhaps `labels`, int [samples], of a
    classifier whose first output is [samples, classes]: then the score is top-1, else fidelity to the model itself.
    Every other sample calibrates, the rest judges: what is judged was never calibrated on. A model whose first axis is
    fixed to n takes n samples at a time; where there is one run alone, it does both.

    Raises DataError where the file is missing or damaged, does not fit the model's inputs, or holds NaN.
    """
    arrays = read_arrays(path)
    labels = arrays.pop(_LABELS, None) if _LABELS not in model.example else None
    at_once = _at_once(model)
    _refuse_unfitting(model, arrays, at_once, path)
    checked(arrays)
    if at_once is None:
        if labels is not None:
            raise DataError(f"{path} has labels, but the model's inputs have no first axis in common; leave them out")
        learned, judged = [arrays], [arrays]
    else:
        learned, judged = _halves(arrays | ({} if labels is None else {_LABELS: labels}), at_once, path)
    output = model.outputs[0]
    if labels is None:
        score = fidelity(model, judged[: max(1, _JUDGED // (at_once or _BATCH))], output)
    else:
        _refuse_labels(model, labels, path)
        whole = {name: np.concatenate([batch[name] for batch in judged]) for name in judged[0]}
        score = top1({name: whole[name] for name in arrays}, whole[_LABELS], output=output, size=at_once or _BATCH)
    calibration = [{name: batch[name] for name in arrays} for batch in learned]
    return _exemplified(model, arrays, at_once), Data(calibration, score=score)


def _at_once(model: Model) -> int | None:
    """How many samples a call takes: 0 is any number, None says that the inputs have no first axis in common."""
    first = {
        0 if 0 in model.axes.get(name, {}) else (len(tensor) if tensor.ndim else None)
        for name, tensor in model.example.items()
    }
    return first.pop() if len(first) == 1 else None


def _refuse_unfitting(model: Model, arrays: Batch, at_once: int | None, path: Path) -> None:
    if set(arrays) != set(model.example):
        raise DataError(f"{path} holds the arrays {sorted(arrays)}; the model takes {sorted(model.example)}")
    for name, tensor in model.example.items():
        array, free = arrays[name], model.axes.get(name, {})
        dtype = str(tensor.dtype).removeprefix("torch.")
        open_axes = {*free} if at_once is None else {0, *free}
        fits = array.ndim == tensor.ndim and all(
            axis in open_axes or have == want
            for axis, (have, want) in enumerate(zip(array.shape, tensor.shape, strict=True))
        )
        if not fits or str(array.dtype) != dtype:
            port = Port(name, dtype, tuple(free.get(axis, length) for axis, length in enumerate(tensor.shape)))
            raise DataError(f"{path}: {name!r} is {array.dtype}{list(array.shape)}; the model takes {port}")


def _halves(arrays: Batch, at_once: int, path: Path) -> tuple[list[Batch], list[Batch]]:
    """Batches of every other sample (or run of `at_once`), and of the rest; the same twice where there is one alone."""
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    count, unit = max(lengths.values()), max(at_once, 1)
    if not count or count % unit or set(lengths.values()) != {count}:
        wanted = "the same number for each" if unit == 1 else f"the same multiple of {unit} for each"
        raise DataError(f"{path} holds so many samples: {lengths}; expected {wanted}, and at least one")
    side = np.arange(count) // unit % 2
    first, second = ({name: array[side == half] for name, array in arrays.items()} for half in (0, 1))
    size = at_once or _BATCH
    return batches(first, size), batches(second if count > unit else first, size)


def _refuse_labels(model: Model, labels: np.ndarray, path: Path) -> None:
    logits = model(**model.example)[model.outputs[0]]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or logits.ndim != 2:
        found = (
            f"labels are {labels.dtype}{list(labels.shape)}, the output {model.outputs[0]!r} is {list(logits.shape)}"
        )
        raise DataError(f"{path}: {found}; expected int [samples] for an output [samples, classes]")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        found = f"labels go from {labels.min()} to {labels.max()}, the model has {logits.shape[1]} classes"
        raise DataError(f"{path}: {found}; expected them to count from 0")


def _exemplified(model: Model, arrays: Batch, at_once: int | None) -> Model:
    """The model with its first samples as example, or as it is where they are too short to keep an axis free."""
    some = {name: array if at_once is None else array[: at_once or 2] for name, array in arrays.items()}
    if any(some[name].shape[axis] < 2 for name, axes in model.axes.items() for axis in axes):
        return model
    return replace(model, example={name: torch.from_numpy(array) for name, array in some.items()})
