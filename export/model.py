"""Model: the torch module in hand, and all that an exporter needs to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..runtime.artifact import Step


@dataclass(frozen=True)
class Model:
    """A torch module, an example of its inputs by name, and what was done to it so far.

    `module(**example)` returns a tensor, or a tuple of tensors, one for each name in `outputs`. `axes` names the axes
    that stay free in every format: `{"input_ids": {0: "batch", 1: "sequence"}}`; an example should be at least 2 long
    on each of them. `assets` are files that the model needs to be used, by name: `tokenizer.json`, `labels.json`.
    `source` says what it was read from (`kind`, `sha256`), `origin` is the model before the first step.

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

    def then(self, module: nn.Module, step: Step) -> "Model":
        """The model after a step: another module, and the step added to its history."""
        return replace(self, module=module, history=(*self.history, step), origin=self.teacher)

    @property
    def teacher(self) -> "Model":
        """The model as it came: what a step that trains learns from, and what fidelity is measured against."""
        return self.origin or self

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the module without gradients; outputs by name."""
        with torch.no_grad():
            result = self.module(**inputs)
        values = result if isinstance(result, tuple | list) else (result,)
        return dict(zip(self.outputs, values, strict=True))
