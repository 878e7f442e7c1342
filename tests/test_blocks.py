"""Linear layers rounded for what they read, in real decoders and in their exported files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.blocks import Blocks, effective, rounded_layers
from edgepress.compress.data import Data
from edgepress.compress.gptq import gptq_blocks
from edgepress.compress.quantize import WeightOnly
from edgepress.compress.source import Task
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.quantized import BlockLinear, Divided
from edgepress.runtime import load
from edgepress.runtime.errors import DataError

from .tiny_decoders import read_tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_tiny(tmp_path_factory.mktemp("llama"), texts=40)


def kl(model: Model, other: Model, data: Data) -> float:
    """KL of the next token against the model's own, on what calibrated."""
    found = []
    for batch in data.calibration:
        ids = torch.from_numpy(batch["input_ids"])
        p, q = (m(input_ids=ids)["logits"].log_softmax(-1) for m in (model, other))
        found.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return sum(found) / len(found)


def reads(model: Model, name: str, data: Data) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = model.module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in data.calibration:
        model(input_ids=torch.from_numpy(batch["input_ids"]))
    hook.remove()
    return torch.cat([x.flatten(0, -2) for x in seen])


@pytest.mark.parametrize("rounding", ["gptq", "awq"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_move_less_than_when_each_weight_is_rounded_to_the_nearest(task: Task, rounding: str, symmetric: bool):
    steps = [
        WeightOnly(rounding=r, symmetric=symmetric, divide=False, layers=("linear",)) for r in (rounding, "nearest")
    ]  # pyright: ignore
    found, plain = (kl(task.model, step(task.model, task.data), task.data) for step in steps)
    assert found < plain


def test_the_outputs_of_a_layer_change_less_on_its_real_inputs(task: Task):
    """‖(W − Ŵ)X‖² of the first layers, whose inputs are those of the float model."""
    name = "decoder.model.layers.0.self_attn.q_proj"
    x, w = reads(task.model, name, task.data), task.model.module.get_submodule(name).weight
    assert isinstance(w, torch.Tensor)
    losses = {}
    for rounding in ("nearest", "gptq", "awq"):
        step = WeightOnly(rounding=rounding, include=(name,), layers=("linear",))
        layer = step(task.model, task.data).module.get_submodule(name)
        losses[rounding] = float((layer(x) - x @ w.T).square().sum().detach())
    assert losses["gptq"] < 0.9 * losses["nearest"]
    assert losses["awq"] <= losses["nearest"]


def test_gptq_leaves_the_integers_of_the_matrix_that_it_is_given(task: Task):
    name = "decoder.model.layers.0.self_attn.q_proj"
    step = WeightOnly(rounding="gptq", layers=("linear",), include=(name,), symmetric=True)
    layer = step(task.model, task.data).module.get_submodule(name)
    assert isinstance(layer, BlockLinear)
    x, w = reads(task.model, name, task.data).double(), task.model.module.get_submodule(name).weight
    assert isinstance(w, torch.Tensor)
    expected, scale, _ = gptq_blocks(w, x.T @ x / len(x), bits=4, block=32, symmetric=True)
    np.testing.assert_allclose(layer.weight.scale, scale, rtol=1e-5)
    assert float(np.isclose(layer.weight.dequantize(), expected, atol=1e-5).mean()) > 0.95
    assert step(task.model, task.data).history[-1].note == "1 layers at 4 bits in blocks of 32, rounded by GPTQ"


@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_the_exported_file_computes_what_the_torch_reference_does(task: Task, rounding: str, tmp_path: Path):
    result = WeightOnly(rounding=rounding)(task.model, task.data)  # pyright: ignore[reportArgumentType]
    ids = task.model.example["input_ids"]
    found = load(export(result, "onnx", tmp_path / "bag").path)(input_ids=ids.numpy())["logits"]
    expected = result(input_ids=ids)["logits"].numpy()
    # ONNX Runtime rounds the activations of 4 bit products to 8 bits
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(48, 32), nn.Linear(48, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.a(x) + self.b(x)))


def net() -> tuple[Model, Data]:
    torch.manual_seed(0)
    loud = np.where(np.arange(48) % 12 == 0, 30, 1).astype("f")
    data = Data(calibration=[{"x": np.random.default_rng(i).standard_normal((32, 48)).astype("f") * loud}
                             for i in range(4)])  # fmt: skip
    return Model("net", Net().eval(), {"x": torch.randn(2, 48)}, ("y",), {"x": {0: "batch"}}), data


@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_any_network_is_rounded_for_what_its_layers_read(rounding: str):
    model, data = net()
    steps = [WeightOnly(block=16, rounding=r) for r in (rounding, "nearest")]  # pyright: ignore[reportArgumentType]
    x = torch.from_numpy(np.concatenate([batch["x"] for batch in data.calibration]))
    errors = [float((s(model, data)(x=x)["y"] - model(x=x)["y"]).square().mean()) for s in steps]
    assert errors[0] < 0.8 * errors[1]


def test_layers_that_read_one_tensor_are_divided_by_one_scale():
    model, data = net()
    module = WeightOnly(block=16, rounding="awq")(model, data).module
    a, b = module.get_submodule("a"), module.get_submodule("b")
    assert isinstance(a, Divided)
    assert isinstance(b, Divided)
    assert torch.equal(a.inverse, b.inverse)
    assert a.inverse.argmin() % 12 == 0, "a loud input is divided by more"


def test_a_division_that_a_norm_can_take_is_in_no_layer(task: Task):
    module = WeightOnly(rounding="awq", layers=("linear",), divide=False)(task.model, task.data).module
    assert not [name for name, part in module.named_modules() if isinstance(part, Divided)]
    before, after = (
        m.get_parameter("decoder.model.layers.0.input_layernorm.weight") for m in (task.model.module, module)
    )
    assert not torch.equal(before, after)
    module = WeightOnly(rounding="awq", layers=("linear",))(task.model, task.data).module
    divided = [name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, Divided)]
    assert set(divided) == {"o_proj"}, "heads that share their values cannot take it"


def test_what_a_layer_multiplies_by_is_its_weight_over_its_scale():
    model, data = net()
    made = rounded_layers(model, data, {}, ["a"], Blocks(4, 16, True, False), "awq")["a"]
    x = torch.randn(3, 48)
    bias = model.module.get_submodule("a").bias
    assert isinstance(bias, torch.Tensor)
    torch.testing.assert_close(made(x), x @ effective(made).T + bias, rtol=1e-4, atol=1e-4)


def test_the_model_that_was_handed_in_stays_as_it_was():
    model, data = net()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    WeightOnly(block=16, rounding="gptq")(model, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


def test_rounding_for_inputs_without_data_is_told_in_one_line():
    model, _ = net()
    with pytest.raises(DataError, match=r'^weight_only with rounding = "gptq" needs calibration data'):
        WeightOnly(rounding="gptq")(model, Data())
