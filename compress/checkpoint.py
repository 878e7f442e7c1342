"""Checkpoints of a training: whole or not at all, and only for the very run that wrote them."""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..runtime.files import new_file
from .data import Batch

FILE = "checkpoint.pt"


def identity(who: str, settings: object, module: nn.Module, batches: Iterable[Batch]) -> str:
    """A hash of what decides a training: its settings, the weights it begins with, the first batches."""
    digest = hashlib.sha256(repr((who, settings)).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for batch in batches:
        for name, array in batch.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(folder: Path, run: str, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Write weights, optimizer, chance and `state`; a reader sees the old checkpoint or the new one, never a part.

    Raises OSError where the disk is full; the checkpoint before it stays.
    """
    held = {
        "run": run,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "chance": torch.get_rng_state(),
        "chance_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "state": dict(state),
    }
    content = BytesIO()
    torch.save(held, content)
    with new_file(folder / FILE) as path:
        path.write_bytes(content.getbuffer())


def read(folder: Path, run: str) -> dict[str, Any] | None:
    """The checkpoint of this `run` in `folder`, or None where there is none, or only another run's."""
    path = folder / FILE
    if not zipfile.is_zipfile(path):  # what torch.save writes; anything else is no checkpoint
        return None
    held = torch.load(path, weights_only=True, map_location="cpu")
    return held if held.get("run") == run else None


def restore(held: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put what `read` gave back into module, optimizer and chance; returns its `state`."""
    module.load_state_dict(held["module"])
    optimizer.load_state_dict(held["optimizer"])
    torch.set_rng_state(held["chance"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(held["chance_cuda"])
    return held["state"]
