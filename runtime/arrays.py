"""Arrays: `.npz` and `.npy` files, read without the pickles that they may hold."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from .errors import DataError

# What reading a damaged archive can raise, from the zip's directory down to an array's header.
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, MemoryError, RuntimeError,
          zipfile.BadZipFile, zlib.error)  # fmt: skip


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name; that of an `.npy` under the name "".

    Raises DataError where the file is missing or damaged, or holds objects.

    >>> read_arrays(Path("batch.npz"))["image"].shape
    (64, 1, 32, 32)
    """
    try:
        with path.open("rb") as stream:  # given a path, np.load leaves a damaged file open
            loaded = np.load(stream, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read as an .npz or .npy ({reason}); write it with numpy.savez, without objects"
        ) from error
