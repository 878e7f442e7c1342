"""What the tests of static int8 share: a batch of images, and ways to look into a quantized graph."""

import numpy as np
import torch
from torch import Tensor

from edgepress.compress.static import StaticInt8
from edgepress.export.model import Model

from .quantize_check import data_of, largest_difference, random, run

QDQ, DEQUANTIZE = torch.ops.edgepress.quantize_dequantize.default, torch.ops.edgepress.dequantize.default
DTYPES = {"uint8": torch.uint8, "int8": torch.int8}
image = random(4, 4, 9, 9)


def quantized(model: Model, *inputs: Tensor, step: StaticInt8 | None = None) -> Model:
    """Calibrated on the model's own example, and on `inputs`, each a batch of `x`."""
    return (step or StaticInt8())(model, data_of(model.example, *({"x": x} for x in inputs)))


def nodes(model: Model, target: object) -> list[torch.fx.Node]:
    assert isinstance(model.module, torch.fx.GraphModule)
    return [node for node in model.module.graph.nodes if node.target is target]


def constants(model: Model, node: torch.fx.Node) -> list[Tensor]:
    return [getattr(model.module, str(a.target)) for a in node.all_input_nodes if a.op == "get_attr"]


def relative_error(model: Model, after: Model, x: Tensor) -> float:
    expected = run(model, x=x)
    return largest_difference(run(after, x=x), expected) / float(np.abs(expected).max())


# Scale and zero point of an activation
