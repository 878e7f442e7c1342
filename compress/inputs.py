"""The inputs of `edgepress run`: arrays from files, a text through the model's tokenizer, or a golden sample."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime.artifact import GOLDEN
from ..runtime.errors import DataError, MissingExtra, UsageError
from ..runtime.golden import read_golden
from ..runtime.session import LoadedModel


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
    return dict(read_golden(path)[0].inputs)


def _encoded(model: LoadedModel, text: str) -> dict[str, np.ndarray]:
    path = model.artifact.asset("tokenizer.json")
    if path is None:
        raise UsageError(f"{model.artifact.path} has no tokenizer.json; give --input NAME=FILE.npy")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizers", "text") from error
    encoding = Tokenizer.from_file(str(path)).encode(text)
    known = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
    return {port.name: np.array([known[port.name]], port.dtype) for port in model.inputs if port.name in known}


def _from_files(model: LoadedModel, files: Sequence[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for item in files:
        name, equals, file = item.rpartition("=")
        path = Path(file)
        if path.suffix == ".npz" and not equals:
            found |= _load(path)
            continue
        if not equals:
            if len(model.inputs) != 1:
                raise UsageError(f"--input {item}: which input is it? expected NAME={item}")
            name = model.inputs[0].name
        found[name] = _load(path)[""]
    return found


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name, or the one of an `.npy` under the name ""."""
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); expected a .npy or .npz that numpy saved") from error
