"""A Hugging Face folder on disk, read one tensor at a time: config.json, and safetensors in one file or in shards."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors(Protocol):
    """What a converter reads: a configuration, and tensors by the names that transformers gives them."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def dtypes(self) -> Mapping[str, str]: ...

    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Shards:
    """A folder's config.json, and what each tensor is (`F32`, `BF16`) and lies in; `read` holds one tensor, no more."""

    folder: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    files: Mapping[str, Path]

    def read(self, name: str) -> Tensor:
        """The tensor, in its stored dtype. Raises ModelError where it holds NaN or infinity, or cannot be read.

        The file is opened for this one tensor: what stays mapped would stay in memory.
        """
        try:
            with safe_open(self.files[name], framework="pt") as file:
                tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{self.files[name]} cannot be read: {error}; copy it again") from error
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{self.files[name]} has NaN or infinity in {name}; bring weights that are finite")
        return tensor


def read_shards(folder: Path) -> Shards:
    """Read what the folder holds, and no weight yet.

    Raises ModelError where config.json or a shard is missing or damaged, where the index names a tensor that its shard
    has not, or where a shard lies there that the index does not name.

    >>> read_shards(Path("smollm")).config["model_type"]
    'llama'
    """
    config = _json(folder / "config.json")
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for path in shard_files(folder):
        for name, shape, dtype in _header(path):
            files[name], shapes[name], dtypes[name] = path, shape, dtype
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        for name, shard in _json(folder / INDEX)["weight_map"].items():
            if name not in files or files[name].name != shard:
                raise ModelError(f"{folder / INDEX} says that {name} is in {shard}, which has it not; copy the folder")
        named = set(_json(folder / INDEX)["weight_map"])
        if extra := sorted(set(files) - named):
            raise ModelError(f"{files[extra[0]]} holds {extra[0]}, which {INDEX} does not name; copy the whole folder")
    return Shards(folder, config, shapes, dtypes, files)


def shard_files(folder: Path) -> Sequence[Path]:
    """The files with the weights.

    Raises ModelError where one is missing or is a pickle, and where a shard lies there that nothing names: it is of
    another model.
    """
    if (folder / SINGLE).is_file():
        names = [SINGLE]
    elif (folder / INDEX).is_file():
        names = _named(folder)
    else:
        raise ModelError(f"{folder} has no {SINGLE}; pickles (.bin, .pt) are never loaded: convert them")
    if others := sorted({path.name for path in folder.glob("model-*-of-*.safetensors")} - set(names)):
        found = f"{folder} has the shard {others[0]}, which nothing there names"
        raise ModelError(f"{found}; remove what belongs to another model")
    return [folder / name for name in names]


def weights_sha256(folder: Path) -> str:
    """One digest over the index, where there is one, and all files: of a single file, what `sha256sum` says."""
    files = shard_files(folder)
    digest = hashlib.sha256()
    for file in [*([] if files[0].name == SINGLE else [folder / INDEX]), *files]:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def _named(folder: Path) -> list[str]:
    """The shards that the index names, each of which must be there."""
    weights = _json(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"{folder / INDEX} has no weight_map; copy the whole folder")
    names = sorted(set(map(str, weights.values())))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ModelError(f"{folder / INDEX} names the file {name!r}, which {folder} has not; copy the whole folder")
    return names


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                about = file.get_slice(name)
                yield name, tuple(about.get_shape()), about.get_dtype()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy it again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; expected a Hugging Face folder with it") from error
    if not isinstance(found, dict):
        found = f"it holds a {type(found).__name__}, expected a dict"
        raise ModelError(f"{path} cannot be read: {found}; save or copy it again")
    return found
