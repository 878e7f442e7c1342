"""Fidelity: how close a compressed model stays to the original, where nobody brought labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..export.model import Model
from ..runtime.errors import DataError
from ..runtime.session import Session
from .data import Batch, Score


def fidelity(original: Model, samples: Sequence[Batch], output: str) -> Score:
    """A score in comparison with the original module's `output` on the same samples (n of them in all).

    - `cosine`, `worst_cosine`: mean and smallest cosine between a sample's output and the original's.
    - `neighbour`: the share of samples whose nearest other sample, by cosine, is the original's (n >= 3).

    The original is run once, now. Raises DataError where there are no samples or its output is not finite.
    """
    if not samples:
        raise DataError("fidelity needs samples to compare on and got none; bring --data")
    runs = [original(**{name: torch.from_numpy(array) for name, array in batch.items()})[output] for batch in samples]
    reference = _rows([run.numpy() for run in runs])
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


def _rows(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """One unit vector a sample, float64."""
    rows = np.concatenate([output.reshape(len(output), -1) for output in outputs]).astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _nearest(rows: np.ndarray) -> np.ndarray:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(1)
