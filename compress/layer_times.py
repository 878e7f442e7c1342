"""Layer times: what one layer takes alone, before and after a change, as files that the device runs in turn.

Alone means that its input comes as float and its output leaves as float: where int8 layers follow each other, they
share that work. Layers that are equal (kind, shapes, settings, input) are timed once.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices.device import Device
from ..devices.measure import measure
from ..export.formats import export
from ..export.model import Model
from ..export.trace import evaluating
from ..runtime.artifact import Artifact
from ..runtime.errors import EngineError, ModelError, UnsupportedError
from .data import Data
from .options import Variant

_BEFORE = ""


class Alone(nn.Module):
    """A layer, and nothing else."""

    def __init__(self, layer: nn.Module, *, read: bool = False) -> None:
        """`read`: what it gives is read as integers, as between int8 layers; else static int8 gives floats, slowly."""
        super().__init__()
        self.layer, self.read = layer, read

    def forward(self, x: Tensor) -> Tensor:
        """x: what the layer reads."""
        y = self.layer(x)
        return y.flatten(1) * 1.0 if self.read else y  # two operators that engines do in no time


@dataclass
class LayerTimes:
    """Collects the files of distinct layers below `folder`, and times them all at the end."""

    model: Model
    inputs: Mapping[str, Tensor]
    folder: Path
    files: dict[str, dict[str, Artifact]] = field(default_factory=dict)

    def add(self, variant: Variant, option: str) -> str:
        """Export the first part of what was changed, before and after, where no equal one was; its key."""
        name = variant.parts[0]
        layer, x = self.model.module.get_submodule(name), self.inputs.get(name)
        key = f"{layer} reads {x.dtype}{list(x.shape)}" if x is not None else ""
        if x is None or option in self.files.get(key, {}):
            return key
        if variant.step is None:
            changed = alone(variant.model.module.get_submodule(name), x)
        else:
            changed = variant.step(alone(layer, x, read=True), Data([{"x": x.numpy()}]))
        files = self.files.setdefault(key, {})
        try:
            if _BEFORE not in files:
                files[_BEFORE] = export(alone(layer, x), "onnx", self._new())
            files[option] = export(changed, "onnx", self._new())
        except (EngineError, ModelError, UnsupportedError):  # what cannot be a file of its own is not timed
            return ""
        return key

    def _new(self) -> Path:
        """A new name below the folder."""
        return self.folder / str(sum(1 for _ in self.folder.iterdir()))

    def times(self, on: Device, tell: Callable[[str], None]) -> dict[tuple[str, str], tuple[float, float]]:
        """p50 in ms before and after, by key and option; empty where the device has no address."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for index, (key, files) in enumerate(self.files.items() if on.link else (), 1):
            tell(f"timing distinct layer {index} of {len(self.files)}")
            if len(files) > 1:
                rows = dict(zip(files, measure(list(files.values()), on), strict=True))
                p50 = {option: row.timing.p50 for option, row in rows.items() if row.timing is not None}
                found |= {(key, option): (p50[_BEFORE], p50[option]) for option in p50 if option != _BEFORE}
        return found


def alone(layer: nn.Module, x: Tensor, *, read: bool = False) -> Model:
    """A model that is nothing but the layer, for inputs of just this shape: `x` in, `y` out."""
    return Model("layer", Alone(layer, read=read).eval(), {"x": x}, ("y",), {})


def layer_inputs(model: Model, names: Iterable[str]) -> dict[str, Tensor]:
    """What each layer reads when the model runs the first sample of its example; without those that never run."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = args[0] if args else named.get("input")
            if isinstance(x, Tensor):
                seen.setdefault(name, x.detach().clone(memory_format=torch.contiguous_format))

        return hook

    first = {name: x[:1] if 0 in model.axes.get(name, {}) else x for name, x in model.example.items()}
    with evaluating(model.module), ExitStack() as hooks:
        for name in names:
            layer = model.module.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(watch(name), with_kwargs=True))
        model(**first)
    return seen
