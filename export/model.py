"""Model: the torch module in hand, and all that an exporter needs to know of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.artifact import Step
from ..runtime.errors import ModelError


@dataclass
class Traced:
    """What an exporter keeps of a trace, for the models that differ from the traced one in swapped layers only."""

    kept: Any = None


@dataclass(frozen=True)
class Ggml:
    """Types of llama.cpp's own that GGUF shall be written in: the file's (`Q4_K_M`; empty: floats), and some tensors'.

    `importance` is the mean squared input of each column, float32 (columns,), by the tensor's name in the file.
    """

    type: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)


FLOATING = Ggml()


@dataclass(frozen=True)
class Web:
    """How a web build is laid out: `max_file` is the most bytes that a file may have, for hosts that have a limit.

    `ort_web` is a folder with the packages of npm that it carries; None fetches them into a cache. `webgpu` puts ONNX
    Runtime's other build beside the one for the processor: 27 MB more, of which a browser loads one or the other.
    """

    max_file: int | None = None
    ort_web: Path | None = None
    webgpu: bool = False


PLAIN = Web()


@dataclass(frozen=True)
class Model:
    """A torch module, an example of its inputs by name, and what was done to it so far.

    `module(**example)` returns a tensor, or a tuple of tensors, one for each name in `outputs`. `axes` names the axes
    that stay free in every format: `{"input_ids": {0: "batch", 1: "sequence"}}`; an example is at least 2 long on each
    of them, for torch.export takes a length of 1 for a constant. `assets` are files that the model needs to be used, by
    name: `tokenizer.json`, `labels.json`. `source` says what it was read from (`kind`, `sha256`), `origin` is the model
    before the first step. `lengths` are those that a format of fixed shapes shall have, by a free axis's name; `ggml`
    is how GGUF shall store the weights, `web` how a web build is laid out.
    Artifacts are named after `name`. `traced` is shared with the models that `then` made by swapping layers, and
    `swapped` names those layers; both are the exporters' own. Raises ModelError where these do not fit each other.

    >>> Model("net", net, {"image": torch.zeros(2, 1, 8, 8)}, ("logits",), {"image": {0: "batch"}})
    """

    name: str
    module: nn.Module
    example: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]
    assets: Mapping[str, bytes] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    origin: "Model | None" = None
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ggml: Ggml = FLOATING
    web: Web = PLAIN
    traced: Traced = field(default_factory=Traced, repr=False, compare=False)
    swapped: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (self.name, *self.assets):
            if Path(name).name != name or name in ("", ".."):
                raise ModelError(f"{name!r} cannot name a model or its files; expected a plain file name, as 'digits'")
        if clash := {n for n in self.outputs if n in self.example or self.outputs.count(n) > 1}:
            raise ModelError(f"{self.name} has the output {sorted(clash)[0]!r} twice, or as an input too; rename one")
        for name, axes in self.axes.items():
            if name not in self.example:
                known = ", ".join(self.example)
                raise ModelError(f"{self.name} has free axes of {name!r}, which is no input; its inputs are: {known}")
            shape = tuple(self.example[name].shape)
            for axis in axes:
                if not 0 <= axis < len(shape) or shape[axis] < 2:
                    raise ModelError(
                        f"{self.name}: the example of {name!r} has the shape {list(shape)}, and its axis {axis} shall "
                        "stay free; expected an axis that is there, and at least 2 long"
                    )

    def then(self, module: nn.Module, step: Step, *, swapped: Collection[str] | None = None) -> "Model":
        """The model after a step: another module, and the step added to its history.

        `swapped` is for a step that put other layers at these names and changed nothing else: the graph around them
        needs no second trace then.
        """
        changed = replace(self, module=module, history=(*self.history, step), origin=self.teacher)
        if swapped is None:
            return replace(changed, traced=Traced(), swapped=frozenset())
        return replace(changed, swapped=self.swapped.union(swapped))

    @property
    def teacher(self) -> "Model":
        """The model as it came: what a step that trains learns from, and what fidelity is measured against."""
        return self.origin or self

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the module without gradients; outputs by name. Raises ModelError where it returns anything else."""
        with torch.no_grad():
            result = self.module(**{name: tensor.clone() for name, tensor in inputs.items()})  # it may write into them
        values = result if isinstance(result, tuple | list) else (result,)
        if len(values) != len(self.outputs) or not all(isinstance(value, Tensor) for value in values):
            found = ", ".join(type(value).__name__ for value in values)
            raise ModelError(f"{self.name} returns ({found}); expected a tensor for each of {list(self.outputs)}")
        return dict(zip(self.outputs, values, strict=True))
