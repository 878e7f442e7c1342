"""Invented inputs: what a file is tried on of which no sample is recorded, as one that somebody else made."""

from typing import TYPE_CHECKING

import numpy as np

from .artifact import Port
from .golden import SelfTest, difference

if TYPE_CHECKING:
    from .session import LoadedModel

# Two runs of the same inputs in the same process.
_TOLERANCE = 1e-4


def invent(port: Port) -> np.ndarray:
    """Free axes of 1, seeded normal floats, 0 for integers: the one index that every table has. Masks are 1."""
    shape = tuple(axis if isinstance(axis, int) else 1 for axis in port.shape)
    dtype = np.dtype(port.dtype)
    if dtype.kind == "O":
        return np.full(shape, "", dtype)
    if dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.full(shape, "mask" in port.name, dtype)


def try_out(model: "LoadedModel") -> SelfTest:
    """Run a model twice on invented inputs: what can be tested where nothing is recorded.

    The difference is that of the two runs, and infinite where an output is not a finite number.
    """
    inputs = {port.name: invent(port) for port in model.inputs}
    first, second = model(**inputs), model(**inputs)
    worst = 0.0
    for name, array in first.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            worst = float("inf")
        elif not array.dtype.hasobject:
            worst = max(worst, difference(second[name], array))
    return SelfTest(1, worst, _TOLERANCE)
