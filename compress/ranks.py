"""The processes of one training, as `torchrun` starts them on one machine or several: who does what, how they agree.

    torchrun --nproc-per-node 2 --no-python edgepress compress MODEL --recipe tiny

Every process makes the same passes. Gradients are averaged over all of them (the loop in train.py); whatever touches
the disk or a clock is done by the first process alone, and the others are handed its result. Without `torchrun` there
is one process, and nothing here does anything.
"""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import distributed, nn

from ..runtime.errors import EdgepressError

T = TypeVar("T")


def join() -> None:
    """Meet the other processes, where `torchrun` has started some. Does nothing the second time."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process among them; 0 is the first."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def device() -> torch.device:
    """Where this process trains: its own CUDA device where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def from_first(make: Callable[[], T]) -> T:
    """`make()` as the first process computed it; what it raises on purpose is raised in all of them."""
    if size() == 1:
        return make()
    handed: list[tuple[T | None, EdgepressError | None]] = [(None, None)]
    if rank() == 0:
        try:
            handed = [(make(), None)]
        except EdgepressError as error:
            handed = [(None, error)]
    distributed.broadcast_object_list(handed)
    result, error = handed[0]
    if error is not None:
        raise error
    return result  # pyright: ignore[reportReturnType] - None only where T holds it


def total(value: float) -> float:
    """The sum of each process's value."""
    if size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device())
    distributed.all_reduce(tensor)
    return float(tensor)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the sum of all processes' gradients into each: they go through the wire as one array."""
    if size() == 1:
        return
    learns = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learns])
    distributed.all_reduce(flat)
    for parameter, part in zip(learns, flat.split([p.numel() for p in learns]), strict=True):
        parameter.grad = part.view_as(parameter)


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers, as the statistics of a batch normalization."""
    if size() == 1:
        return
    for buffer in module.buffers():
        distributed.broadcast(buffer, 0)
