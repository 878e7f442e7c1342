"""What layers read: of the walk and of the hooks, the moments are those of the inputs that go by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.layers import find_layers, with_layers
from edgepress.compress.readers import readers
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError

from .tiny_decoders import read_tiny


def inputs_of(model: Model, module: nn.Module, name: str, data: Data) -> torch.Tensor:
    """All that a layer reads, (n, in)."""
    seen: list[torch.Tensor] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in data.calibration:
            module(**{key: torch.from_numpy(array) for key, array in batch.items()})
    hook.remove()
    return torch.cat(seen).double()


def test_each_layer_of_a_decoder_reads_what_the_changed_layers_before_it_give(tmp_path: Path):
    task = read_tiny(tmp_path)
    module = with_layers(task.model.module, {})
    names = list(find_layers(module, ["linear"]))
    groups: list[list[str]] = []
    for group in readers(task.model, module, names, task.data.calibration, "test"):
        groups.append([name.rpartition(".")[2] for name in group.layers])
        first = next(iter(group.layers))
        x = inputs_of(task.model, module, first, task.data)
        torch.testing.assert_close(group.moments, x.T @ x / len(x), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(group.magnitudes, x.abs().mean(0), rtol=1e-4, atol=1e-6)
        if groups[-1] == ["down_proj"]:  # the end of a layer: from here on everything is another
            for layer in group.layers.values():
                layer.weight.data *= 2
    layer = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert groups == [*layer, *layer, ["lm_head"]]


class Forked(nn.Module):
    """No transformer: two layers that read one tensor, one that runs twice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.twice, self.never = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.twice(self.twice(self.left(x) + self.right(x)))


def forked() -> Model:
    torch.manual_seed(0)
    return Model("forked", Forked().eval(), {"x": torch.randn(2, 8)}, ("y",), {"x": {0: "batch"}})


def test_a_network_that_cannot_be_walked_is_read_by_hooks():
    model = forked()
    data = Data(calibration=[{"x": np.random.default_rng(i).standard_normal((4, 8)).astype("f")} for i in range(3)])
    found = list(readers(model, model.module, ["left", "right", "twice", "never"], data.calibration, "test"))
    assert sorted(list(group.layers) for group in found) == [["left", "right"], ["never"], ["twice"]]
    by_name = {next(iter(group.layers)): group for group in found}
    for name in ("left", "twice"):
        x = inputs_of(model, model.module, name, data)
        torch.testing.assert_close(by_name[name].moments, x.T @ x / len(x))
    assert not by_name["never"].moments.any()


def test_data_that_is_missing_or_not_finite_is_told_in_one_line():
    model = forked()
    with pytest.raises(DataError, match=r"^gptq needs calibration data and got no batch"):
        list(readers(model, model.module, ["left"], [], "gptq"))
    with torch.no_grad():
        model.module.get_submodule("left").weight[0, 0] = torch.nan  # pyright: ignore[reportIndexIssue]
    batch = {"x": np.zeros((2, 8), "f")}
    with pytest.raises(DataError, match=r"^twice reads a NaN or an infinity"):
        list(readers(model, model.module, ["left", "twice"], [batch], "gptq"))


def test_padding_is_left_out(tmp_path: Path):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("f")
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    example = {"x": torch.from_numpy(x), "attention_mask": torch.from_numpy(mask)}
    model = replace(forked(), module=Masked(), example=example, axes={})
    (group,) = readers(model, model.module, ["layer"], [{"x": x, "attention_mask": mask}], "test")
    rows = torch.from_numpy(x[mask.astype(bool)]).double()
    torch.testing.assert_close(group.moments, rows.T @ rows / 3)
