"""Fidelity: how close a compressed model stays to the original, where nobody brought labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..export.model import Model
from ..export.trace import first_line
from ..runtime.errors import DataError
from ..runtime.session import Session
from .data import Batch, Score


def fidelity(original: Model, samples: Sequence[Batch], output: str, *, together: int = 1) -> Score:
    """A score in comparison with the original module's `output` on the same batches (n samples in all).

    - `cosine`, `worst_cosine`: mean and smallest cosine between a sample's output and the original's.
    - `neighbour`: the share of samples whose nearest other sample, by cosine, is the original's (n >= 3).

    An output's first axis counts the samples; one without axes is a sample. The original is run once, now, on up to
    `together` batches of the same shapes at a time: more than 1 is for a model that computes each sample by itself.
    What is judged gets the batches one by one: a quantized model may compute a sample otherwise in company. Raises
    DataError where there are no samples, the original does not run on one, or its output is not finite.
    """
    if not samples:
        raise DataError("fidelity needs samples to compare on and got none; bring --data")
    reference = _rows(_references(original, samples, output, together))
    if not np.isfinite(reference).all():
        raise DataError(f"the original model gives NaN or infinity at {output!r}; check the model and the data")
    neighbours = _nearest(reference)

    def score(session: Session) -> Mapping[str, float]:
        rows = _rows([session(**batch)[output] for batch in samples])
        cosine = (rows * reference).sum(1)
        figures = {"cosine": float(cosine.mean()), "worst_cosine": float(cosine.min())}
        if len(rows) >= 3:
            figures["neighbour"] = float((_nearest(rows) == neighbours).mean())
        return figures

    return score


def _references(model: Model, samples: Sequence[Batch], output: str, together: int) -> list[np.ndarray]:
    """The original's output for each batch, up to `together` batches of the same shapes in one run."""
    alike: dict[object, list[int]] = {}
    for index, batch in enumerate(samples):
        shapes = tuple((name, array.dtype, array.shape) for name, array in sorted(batch.items()))
        alike.setdefault(shapes, []).append(index)
    found: dict[int, np.ndarray] = {}
    for same in alike.values():
        for group in (same[i : i + together] for i in range(0, len(same), together)):
            first = samples[group[0]]
            if len(group) == 1:
                found[group[0]] = run_batch(model, first)[output]
                continue
            joined = {name: np.concatenate([samples[index][name] for index in group]) for name in first}
            found |= zip(group, np.split(run_batch(model, joined)[output], len(group)), strict=True)
    return [found[index] for index in range(len(samples))]


def run_batch(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    """The module's outputs for a batch. Raises DataError where it does not run on it."""
    try:
        outputs = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        shapes = {name: list(array.shape) for name, array in batch.items()}
        raise DataError(f"{model.name} does not run on samples of shape {shapes}: {first_line(error)}") from error
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def _rows(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """One unit vector a sample, float64; NaN where an output is not finite."""
    rows = np.concatenate([output.reshape(len(output), -1) for output in map(np.atleast_1d, outputs)])
    with np.errstate(invalid="ignore"):
        rows = rows.astype(np.float64)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _nearest(rows: np.ndarray) -> np.ndarray:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1)
