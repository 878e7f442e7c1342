"""Weight sharing: every weight of a layer is one of 2^bits values, `W ≈ palette[index]`, found by k-means.

Han et al., Deep Compression (ICLR 2016), section 3: linear initialisation; the shared values can be trained on, each by
the sum of its members' gradients (export/palette.py). A file stores the small index and the palette; when it is loaded
the weight becomes float again, so this makes a model smaller, not faster.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..export.model import Model
from ..export.palette import PaletteConv, PaletteEmbedding, PaletteLinear, stored_bits
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from .data import Data
from .kmeans import kmeans
from .layers import KINDS, find_layers, with_layers
from .weights import finite


@dataclass(frozen=True)
class Cluster:
    """Palettes of 2^`bits` values (2 to 8 bits) for the weights of linear layers, convolutions and embeddings.

    `groups` splits a layer's output channels (an embedding's rows) into that many parts with a palette each. Weights
    that are exactly 0 stay exactly 0. `layers` names the kinds: `linear`, `embedding`, `conv1d`, `conv2d`. `include`
    and `exclude` are shell patterns over module names. A layer that would not get smaller is left as it is, and so is a
    convolution that is padded with anything but zeros. Passes that quantize find no clustered layer any more.

    >>> Cluster(bits=4, exclude=("head",))(model, Data())
    """

    bits: int = 4
    groups: int = 1
    layers: tuple[str, ...] = tuple(KINDS)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"cluster: bits = {self.bits}; expected a number from 2 to 8")
        if self.groups < 1:
            raise UsageError(f"cluster: groups = {self.groups}; expected at least 1")
        if unknown := set(self.layers) - set(KINDS):
            raise UsageError(f"cluster: layers = {sorted(unknown)}; known kinds: {', '.join(KINDS)}")

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs no data. Returns the model unchanged where no layer gets smaller.

        Raises UnsupportedError for an embedding with `max_norm`, ModelError for weights that are not finite.
        """
        found = find_layers(model.module, self.layers, self.include, self.exclude)
        layers = {name: layer for name, layer in found.items() if self._pays(name, layer)}
        if not layers:
            return model
        shared = {name: self._shared(layer) for name, layer in layers.items()}
        stored = stored_bits(self.bits)
        note = f"{len(shared)} layers at {self.bits} bits, in palettes of {2**self.bits} values"
        note += f"; a file takes {stored} bits for each weight" if stored > self.bits else ""
        if left := [name for name in found if name not in layers]:
            note += f"; {len(left)} left as they are: {', '.join(left[:3])}" + (", ..." if len(left) > 3 else "")
        return model.then(with_layers(model.module, shared), Step("cluster", asdict(self), note))

    def _pays(self, name: str, layer: nn.Module) -> bool:
        """True where index and palettes take less than the weight. Refuses rows that are cut as they are read."""
        if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            raise UnsupportedError(f"cluster: {name} cuts its rows to max_norm as they are read; exclude it")
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode != "zeros":
            return False
        assert isinstance(layer.weight, Tensor)
        count = layer.weight.numel()
        return count * stored_bits(self.bits) / 32 + self.groups * 2**self.bits < count

    def _shared(self, layer: nn.Module) -> nn.Module:
        assert isinstance(layer.weight, Tensor)
        parts = [part.numpy() for part in finite(layer.weight).tensor_split(self.groups)]
        palettes, indices = zip(*(kmeans(part, 2**self.bits) for part in parts), strict=True)
        index, palette = torch.from_numpy(np.concatenate(indices)), torch.from_numpy(np.stack(palettes))
        if isinstance(layer, nn.Linear):
            return PaletteLinear(layer, index, palette)
        if isinstance(layer, nn.Embedding):
            return PaletteEmbedding(layer, index, palette)
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        return PaletteConv(layer, index, palette)
