"""Source: what MODEL on the command line can be, read into a Task."""

from dataclasses import dataclass

from ..export.model import Model
from .data import Data


@dataclass(frozen=True)
class Task:
    """What shall become smaller, and what to judge it by. A task file has a function that returns one."""

    model: Model
    data: Data
