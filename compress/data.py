"""Data: what the user brings to judge by: calibration batches, training batches, and the score."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.errors import DataError
from ..runtime.session import Session

if TYPE_CHECKING:
    from torch import nn

Batch = Mapping[str, np.ndarray]
Score = Callable[[Session], Mapping[str, float]]

# The array of a training batch that is no input: int64 [batch].
LABEL = "label"


@dataclass(frozen=True)
class Data:
    """`calibration` is walked more than once, a batch at a time: give a list or a re-iterable.

    A batch maps input names to arrays; a training batch may also hold `label`, int64 [batch]. `training` is a list of
    batches, or a function of the epoch (0, 1, ...) that returns that epoch's: shuffled, augmented, and the same ones
    whenever it is asked again. `score` judges any open model, whatever its format, and returns figures in [0, 1] where
    higher is better; the first one is what a budget's `drop` is about. `validation` is a score on samples that are
    neither trained on nor judged by: it watches a training. `student` is a module of the user's own that shall learn
    from the model.

    `checkpoints` is the folder where a step that trains may leave what it needs to go on after a kill (None: nowhere);
    `tell` is called with a line of progress. The pipeline fills both in, for each step its own.
    """

    calibration: Iterable[Batch] = ()
    training: Sequence[Batch] | Callable[[int], Iterable[Batch]] = ()
    score: Score | None = None
    validation: Score | None = None
    student: "nn.Module | None" = None
    checkpoints: Path | None = None
    tell: Callable[[str], None] = lambda text: None


def batches(arrays: Batch, size: int = 32) -> list[Batch]:
    """Cut arrays along their first axis into batches. Raises DataError where their lengths differ or are 0.

    >>> len(batches({"image": np.zeros((70, 1, 8, 8), np.float32)}))
    3
    """
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataError(f"samples by input: {lengths}; expected the same number for each, and at least one")
    count = next(iter(lengths.values()))
    return [{name: array[i : i + size] for name, array in arrays.items()} for i in range(0, count, size)]


def checked(batch: Batch) -> Batch:
    """Return the batch; raises DataError where it holds a NaN or an infinity, naming the input."""
    for name, array in batch.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            bad = int(np.size(array) - np.isfinite(array).sum())
            raise DataError(f"calibration input {name!r} holds {bad} values that are NaN or infinite; clean the data")
    return batch


def top1(inputs: Batch, labels: np.ndarray, *, output: str, size: int = 64) -> Score:
    """The score of a classifier: the share of samples whose largest logit is at the label.

    >>> Data(score=top1({"image": images}, labels, output="logits"))
    """

    def score(session: Session) -> Mapping[str, float]:
        logits = np.concatenate([session(**batch)[output] for batch in batches(inputs, size)])
        return {"top1": float((logits.argmax(-1) == labels).mean())}

    return score
