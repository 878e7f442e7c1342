"""Trace a model with torch.export, free axes kept, and say in one line why it cannot be traced."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from ..runtime.errors import ModelError, UnsupportedError
from .model import Model

# What torch.export raises for code that it cannot follow; it has no type of its own for that.
_UNTRACEABLE = (TorchDynamoException, RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)


def trace(model: Model) -> Any:
    """The model as a torch.export.ExportedProgram in evaluation mode; the model itself is not changed.

    Raises ModelError where the module does not run on its own example, UnsupportedError where it cannot be traced.
    """
    with evaluating(model.module):
        return _traced(model)


def _traced(model: Model) -> Any:
    try:
        model(**model.example)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise ModelError(f"{model.name} does not run on its own example: {first_line(error)}") from error
    shapes = {name: dict.fromkeys(model.axes.get(name, {}), torch.export.Dim.AUTO) for name in model.example}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside torch; what fails is raised
            return torch.export.export(model.module, (), dict(model.example), dynamic_shapes=shapes)
    except _UNTRACEABLE as error:
        raise UnsupportedError(f"{model.name} cannot be traced by torch.export: {first_line(error)}") from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then each part is in its own mode again: some train with frozen parts."""
    modes = {part: part.training for part in module.modules()}
    if any(modes.values()):
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def first_line(error: BaseException) -> str:
    """The first line of a message that may have hundreds, or the error's type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
