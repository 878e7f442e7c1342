"""The inputs of `edgepress run`: arrays from files, a text through the model's tokenizer, or a golden sample."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime.arrays import read_arrays
from ..runtime.artifact import GOLDEN
from ..runtime.errors import UsageError
from ..runtime.golden import first_inputs
from ..runtime.session import LoadedModel
from .tokenization import read_tokenizer, text_encoder


def read_inputs(model: LoadedModel, files: Sequence[str], text: str | None, golden: bool) -> dict[str, np.ndarray]:
    """Exactly one of the three; raises UsageError where none or several are given, DataError for unreadable files."""
    if sum((bool(files), text is not None, golden)) != 1:
        ports = ", ".join(map(str, model.inputs))
        raise UsageError(f"expected one of --input, --text and --golden; the model takes {ports}")
    if golden:
        return _golden(model)
    return _encoded(model, text) if text is not None else _from_files(model, files)


def _golden(model: LoadedModel) -> dict[str, np.ndarray]:
    path = model.artifact.asset(GOLDEN)
    if path is None:
        raise UsageError(f"{model.artifact.path} has no golden samples; give --input NAME=FILE.npy")
    return dict(first_inputs(path))


def _encoded(model: LoadedModel, text: str) -> dict[str, np.ndarray]:
    path = model.artifact.asset("tokenizer.json")
    if path is None:
        raise UsageError(f"{model.artifact.path} has no tokenizer.json; give --input NAME=FILE.npy")
    tokenizer = read_tokenizer(path.read_bytes(), str(path))
    return dict(text_encoder(tokenizer, model.inputs, {})(text))


def _from_files(model: LoadedModel, files: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of each `FILE.npz`, and that of each `NAME=FILE.npy`; a model with one input needs no name."""
    found: dict[str, np.ndarray] = {}
    for item in files:
        bare = "=" not in item or Path(item).is_file()  # a path may hold a "=" of its own
        name, _, file = ("", "", item) if bare else item.partition("=")
        arrays = read_arrays(Path(file))
        if "" not in arrays and not name:
            found |= arrays
        elif "" in arrays and (name or len(model.inputs) == 1):
            found[name or model.inputs[0].name] = arrays[""]
        else:
            raise UsageError(f"--input {item}: expected NAME=FILE.npy for one array, or FILE.npz for arrays by name")
    return found
