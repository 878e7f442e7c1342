"""A leaf that is filled in is what torch's own exporter writes of the layer."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export import onnx as exporter
from edgepress.export.model import Model
from edgepress.export.onnx_leaf import FILL
from edgepress.export.quantized import BlockEmbedding, BlockLinear, Divided, DynamicLinear, PackedLinear
from edgepress.export.trace import trace


def layer(kind: str) -> nn.Module:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32))
    match kind:
        case "linear":
            return nn.Linear(16, 6)
        case "linear without bias":
            return nn.Linear(16, 6, bias=False)
        case "embedding":
            return nn.Embedding(6, 16)
        case "dynamic":
            return DynamicLinear(per_channel(weight, bits=7), torch.arange(6.0))
        case "packed":
            values = torch.arange(96, dtype=torch.uint8).view(6, 16) % 16
            levels = torch.arange(1, 13, dtype=torch.uint8).view(6, 2)
            return PackedLinear(values, levels, levels - 1, torch.arange(1.0, 7.0), torch.arange(6.0), 8)
        case "block":
            return BlockLinear(in_blocks(weight, bits=4, block=16, symmetric=False))
        case "block embedding":
            return BlockEmbedding(in_blocks(weight, bits=4, block=16, symmetric=False, half_scales=True))
        case _:
            return Divided(torch.arange(1.0, 17.0), DynamicLinear(per_channel(weight, bits=7), torch.arange(6.0)))


KINDS = ["linear", "linear without bias", "embedding", "dynamic", "packed", "block", "block embedding", "divided"]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filled_leaf_is_what_a_plain_trace_gives(
    kind: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shape = (2, 3, 16)[3 - rank :]
    floats = torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    x = torch.arange(6).reshape(2, 3) if "embedding" in kind else floats
    model = Model("net", nn.Sequential(layer(kind), nn.ReLU()), {"input": x}, ("y",), {"input": {0: "batch"}})
    files = []
    for name in ("leaf", "plain"):
        (tmp_path / name).mkdir()
        files.append(exporter.write(model, tmp_path / name))
        model.traced.kept = None
        monkeypatch.setattr(exporter, "hollow_trace", lambda model: (trace(model), {}))
    leaf, plain = (onnx.load(file).graph for file in files)
    assert [node.op_type for node in leaf.node] == [node.op_type for node in plain.node]
    kinds = [Counter((t.data_type, tuple(t.dims)) for t in graph.initializer) for graph in (leaf, plain)]
    assert kinds[0] == kinds[1]
    a, b = (ort.InferenceSession(file).run(None, {"input": x.numpy()})[0] for file in files)
    np.testing.assert_array_equal(a, b)


def test_layers_that_divide_the_same_input_alike_divide_it_once(tmp_path: Path):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            s, weight = torch.arange(1.0, 17.0), torch.ones(6, 16)
            self.query, self.key = (Divided(s, DynamicLinear(per_channel(weight * k, bits=7))) for k in (1, 2))
            self.other = Divided(s + 1, DynamicLinear(per_channel(weight, bits=7)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.query(x) + self.key(x) + self.other(x)

    model = Model("net", Heads(), {"x": torch.ones(2, 16)}, ("y",), {"x": {0: "batch"}})
    found = Counter(node.op_type for node in onnx.load(exporter.write(model, tmp_path)).graph.node)
    assert found["DynamicQuantizeLinear"] == 2
    assert found["Mul"] == 2 + 2 * 3  # a division for each s, then scales


def test_every_kind_of_layer_that_can_be_a_leaf_can_be_filled_in():
    assert set(FILL) == {type(layer(kind)) for kind in KINDS} - {Divided}
