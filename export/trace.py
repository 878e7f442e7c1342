"""Trace a model with torch.export, free axes kept, and say in one line why it cannot be traced."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from ..runtime.errors import EdgepressError, ModelError, UnsupportedError
from .model import Model

# What torch.export raises for code that it cannot follow; it has no type of its own for that.
_UNTRACEABLE = (TorchDynamoException, RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)


def trace(model: Model, within: AbstractContextManager[object] | None = None) -> Any:
    """The model as a torch.export.ExportedProgram in evaluation mode; the model itself is not changed.

    The tracing, but not the run on the example before it, happens inside `within`. Raises ModelError where the module
    does not run on its own example, UnsupportedError where it cannot be traced or an axis cannot stay free.
    """
    with evaluating(model.module):
        try:
            model(**model.example)
        except EdgepressError:
            raise
        except Exception as error:  # a module is the user's code, and may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"{model.name} does not run on its own example: {reason}") from error
        shapes = {name: dict.fromkeys(model.axes.get(name, {}), torch.export.Dim.AUTO) for name in model.example}
        try:  # where it fails it prints the graph so far
            with quiet(), redirect_stderr(StringIO()), torch.no_grad(), within or nullcontext():
                program = torch.export.export(model.module, (), dict(model.example), dynamic_shapes=shapes)
        except _UNTRACEABLE as error:
            raise UnsupportedError(f"{model.name} cannot be traced by torch.export: {first_line(error)}") from error
    _refuse_fixed(program, model)
    return program


def module_of(node: torch.fx.Node) -> str:
    """The name of the innermost module that a node was traced in; "" is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((path for path, _ in reversed(stack.values())), "")
    return path.removeprefix("L['self'].").removeprefix("L['self']")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what torch tells its own developers; what fails is raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


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


def _refuse_fixed(program: Any, model: Model) -> None:
    """Refuse an axis that shall stay free and was traced as a constant."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, placeholder in zip(model.example, program.graph_signature.user_inputs, strict=True):
        shape = placeholders[placeholder].meta["val"].shape
        for axis, label in model.axes.get(name, {}).items():
            if is_concrete_int(shape[axis]):
                raise UnsupportedError(
                    f"{model.name}: axis {axis} ({label}) of input {name!r} is fixed to {shape[axis]} by the model's "
                    "own code; leave it out of the free axes, or make the module independent of it"
                )


def first_line(error: BaseException) -> str:
    """The first line of a message that may have hundreds, or the error's type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
