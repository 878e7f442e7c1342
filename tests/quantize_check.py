"""What the tests of quantization share: small models, and what ONNX Runtime makes of the file that was written."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.export.model import Model
from edgepress.export.onnx import write
from edgepress.runtime import ort
from edgepress.runtime.machine import saturates

# Where int8 products lose their top, 8 bit weights give other numbers than the reference: see `saturates`.
HOST_RANGE = saturates()


class One(nn.Module):
    """`layer(x)`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def chain(*layers: nn.Module) -> nn.Module:
    return One(nn.Sequential(*layers))


def model_of(module: nn.Module, **example: Tensor) -> Model:
    """In evaluation mode, with the output `y` and a free first axis of every input that is 2 long or more there."""
    free: dict[str, dict[int, str]] = {name: {0: "batch"} for name, tensor in example.items() if len(tensor) > 1}
    return Model("net", module.eval(), example, ("y",), free)


def data_of(*batches: Mapping[str, Tensor]) -> Data:
    return Data(calibration=[{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches])


def run(model: Model, **inputs: Tensor) -> np.ndarray:
    """The torch reference's `y`."""
    return model(**inputs)["y"].numpy()


def run_file(model: Model, folder: Path, **inputs: Tensor) -> np.ndarray:
    """Write the model as ONNX, open the file with the runtime's engine, and return its `y`."""
    engine = ort.start(write(model, folder), threads=1, providers=["cpu"])
    return engine.run({name: tensor.numpy() for name, tensor in inputs.items()})["y"]


def largest_difference(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> float:
    assert a.shape == b.shape
    a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
    return float((a - b).abs().max())


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with parameters drawn from 0.2·N(0, 1), and batch statistics that are no longer 0 and 1."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))) * 0.2)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.from_numpy(rng.standard_normal(tuple(buffer.shape))) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.from_numpy(rng.uniform(0.5, 2, tuple(buffer.shape))))
    return module
