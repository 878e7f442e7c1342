"""Run a model over the calibration batches, one after the other, and say what is wrong with them."""

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..export.trace import first_line
from ..runtime.errors import DataError
from .data import Batch, checked

# What the code of a module raises for an input that does not suit it.
_OF_A_MODEL = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def calibrate(
    run: Callable[[Mapping[str, Tensor]], object], inputs: Collection[str], calibration: Iterable[Batch], who: str
) -> None:
    """Call `run` with each batch, without gradients; of all batches only the one at hand is kept.

    Raises DataError where there is no batch, where a batch has other inputs than the model or holds values that are
    not finite, and where the model does not run on it. `who` begins the sentence about missing data.
    """
    seen = 0
    for batch in calibration:
        if set(batch) != set(inputs):
            raise DataError(f"a calibration batch has the inputs {sorted(batch)}; the model takes {sorted(inputs)}")
        checked(batch)
        try:
            with torch.no_grad():
                # a copy: torch takes no negative strides, and warns of arrays that must not be written to
                run({name: torch.from_numpy(np.array(array)) for name, array in batch.items()})
        except _OF_A_MODEL as error:
            shapes = {name: list(array.shape) for name, array in batch.items()}
            reason = first_line(error)
            raise DataError(f"the model does not run on a calibration batch of shape {shapes}: {reason}") from error
        seen += 1
    if not seen:
        raise DataError(f"{who} needs calibration data and got no batch; bring --data or fill Data.calibration")
