"""float16: every weight in two bytes, nothing else changed.

    W ≈ float16(W),   y = x·float32(float16(W)) + b

Half the bytes of any format, at a relative error of 2^-11 a weight. Engines compute in float32: some widen the weights
once, when they load the file.
"""

from dataclasses import asdict, dataclass

import torch
from torch import fx

from ..export import quantized  # noqa: F401 - defines the edgepress operators
from ..export.model import Model
from ..runtime.artifact import Step
from ..runtime.errors import UsageError
from .capture import CONVOLUTIONS, add_constant, aten, capture, constant, tidy
from .data import Data
from .weights import finite

# Where an operator has its weight.
_WEIGHTS = {**dict.fromkeys([*CONVOLUTIONS, aten.linear.default], 1), aten.embedding.default: 0}


@dataclass(frozen=True)
class Float16:
    """float16 weights for convolutions, linear layers and embeddings; batch normalization is folded into them.

    A weight of fewer than `least` elements stays as it is.
    """

    least: int = 256

    def __post_init__(self) -> None:
        if self.least < 0:
            raise UsageError(f"float16: least = {self.least}; expected 0 or more")

    def __call__(self, model: Model, data: Data) -> Model:
        """Needs no data. Returns the model unchanged where it has no such weight in float32; raises ModelError for one
        that float16 does not hold."""
        graph = capture(model)
        done: dict[fx.Node, fx.Node] = {}
        for node in list(graph.graph.nodes):
            place = _WEIGHTS.get(node.target)
            weight = None if place is None else constant(graph, node.args[place])
            if place is None or weight is None or weight.dtype != torch.float32 or weight.numel() < self.least:
                continue
            source = node.args[place]
            if source not in done:
                with graph.graph.inserting_after(source):
                    held = add_constant(graph, finite(weight, torch.float16).half(), "half")
                with graph.graph.inserting_after(held):
                    done[source] = graph.graph.call_function(torch.ops.edgepress.widen.default, (held,))
            node.update_arg(place, done[source])
        if not done:
            return model
        tidy(graph)
        return model.then(graph, Step("float16", asdict(self), f"{len(done)} weights at float16"))
