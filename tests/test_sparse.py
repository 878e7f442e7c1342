"""A sparse decoder has the zeros that were asked for, layer after layer, and later passes keep them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgepress.compress.data import Data
from edgepress.compress.distill import Distill
from edgepress.compress.prune import MagnitudePrune
from edgepress.compress.source import Task
from edgepress.compress.sparse import Sparse
from edgepress.compress.sparsity import sparsegpt, wanda
from edgepress.compress.train import Training
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UsageError

from . import tiny_decoders, tiny_encoders

LAYER = "decoder.model.layers"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_decoders.read_tiny(tmp_path_factory.mktemp("llama"))


def inputs(task: Task, module: torch.nn.Module, name: str) -> Tensor:
    """What a layer reads when all of `module` runs on the calibration text, [n, in]."""
    rows: list[Tensor] = []
    hook = module.get_submodule(name).register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in task.data.calibration:
            module(torch.from_numpy(batch["input_ids"]))
    hook.remove()
    return torch.cat(rows).double()


def weight(module: torch.nn.Module, name: str) -> Tensor:
    return module.get_submodule(name).get_parameter("weight").detach()


def divergence_of(task: Task, model: Model) -> float:
    ids = torch.from_numpy(next(iter(task.data.training(3)))["input_ids"])  # pyright: ignore
    p, q = (m(input_ids=ids)["logits"].log_softmax(-1) for m in (task.model, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_a_layer_is_pruned_on_what_the_pruned_layers_before_it_give(method: str, llama: Task):
    pruned = Sparse(method=method)(llama.model, llama.data).module  # pyright: ignore[reportArgumentType]
    reference = copy.deepcopy(llama.model.module)
    for name in (f"{LAYER}.{i}" for i in range(2)):
        below = [f"{name}.self_attn.{x}_proj" for x in "qkvo"] + [
            f"{name}.mlp.{x}_proj" for x in ("gate", "up", "down")
        ]
        read = {linear: inputs(llama, reference, linear) for linear in below}  # the layer itself is whole still
        for linear, x in read.items():
            w = weight(reference, linear)
            w[:] = wanda(w, x.norm(dim=0), 0.5) if method == "wanda" else sparsegpt(w, x.T @ x / len(x), 0.5)
    for linear in (f"{LAYER}.0.mlp.gate_proj", f"{LAYER}.0.mlp.down_proj", f"{LAYER}.1.self_attn.o_proj"):
        assert torch.allclose(weight(pruned, linear), weight(reference, linear), atol=1e-4), linear


def test_knowing_what_layers_read_loses_less(llama: Task):
    magnitude = MagnitudePrune(scope="layer", include=("*.layers.*",))(llama.model, llama.data)
    models = [magnitude, *(Sparse(method=m)(llama.model, llama.data) for m in ("wanda", "sparsegpt"))]
    lost = [divergence_of(llama, model) for model in models]
    assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_two_of_four_stay(method: str, llama: Task):
    model = Sparse(method=method, pattern="2:4")(llama.model, llama.data)  # pyright: ignore[reportArgumentType]
    rows = weight(model.module, f"{LAYER}.1.mlp.down_proj").unflatten(1, (-1, 4))
    assert ((rows != 0).sum(-1) == 2).all()
    assert model.history[-1].note == "50.0 % of the weights of 14 layers are 0; they save bytes of a download, no time"
    for name in ("decoder.lm_head", "decoder.model.embed_tokens"):
        assert torch.equal(weight(model.module, name), weight(llama.model.module, name))
    assert weight(llama.model.module, f"{LAYER}.0.mlp.up_proj").all(), "the model at hand has changed"


@pytest.mark.parametrize(("kind", "layers"), [("gpt2", 8), ("phi3", 8), ("gemma3_text", 14)])
def test_other_decoders_are_pruned_too(kind: str, layers: int, tmp_path: Path):
    task = tiny_decoders.read_tiny(tmp_path, kind)
    note = Sparse(sparsity=0.25)(task.model, task.data).history[-1].note
    assert note.startswith(f"25.0 % of the weights of {layers} layers are 0")


def test_encoders_are_pruned_too(tmp_path: Path):
    task = tiny_encoders.read_tiny(tmp_path)
    assert Sparse()(task.model, task.data).history[-1].note.startswith("50.0 % of the weights of 12 layers are 0")


def test_a_model_that_is_sparse_enough_is_left_as_it_is(llama: Task):
    once = Sparse(method="wanda")(llama.model, llama.data)
    assert Sparse(method="wanda", sparsity=0.4)(once, llama.data) is once


def test_patterns_choose_the_layers(llama: Task):
    model = Sparse(method="wanda", include=("*.mlp.*",), exclude=("*.layers.0.*",))(llama.model, llama.data)
    zeros = {name for name, w in model.module.named_parameters() if w.ndim > 1 and not w.all()}
    assert zeros == {f"{LAYER}.1.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}


def test_distillation_heals_and_keeps_the_zeros(llama: Task):
    pruned = Sparse(method="wanda", sparsity=0.7)(llama.model, llama.data)
    healed = Distill(training=Training(epochs=4, rate=2e-3))(pruned, llama.data)
    assert divergence_of(llama, healed) < 0.8 * divergence_of(llama, pruned)
    for name in (f"{LAYER}.0.mlp.up_proj", f"{LAYER}.1.self_attn.q_proj"):
        before, after = weight(pruned.module, name) == 0, weight(healed.module, name) == 0
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "magic"}, "method = 'magic'; expected one of wanda, sparsegpt"),
        ({"sparsity": 1.0}, "sparsity = 1.0; expected a share between 0 and 1"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "name one of them"),
        ({"pattern": "4:2"}, "pattern = '4:2'; expected n:m with 0 < n < m"),
        ({"pattern": "half"}, "pattern = 'half'; expected n:m"),
        ({"damping": 0.0}, "damping = 0.0; expected a number above 0"),
        ({"block": 0}, "block = 0; expected at least 1"),
        ({"block": 6, "pattern": "2:4"}, "block = 6; expected a multiple of 4"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, said: str):
    with pytest.raises(UsageError, match=said):
        Sparse(**settings)


def test_missing_data_and_misspelt_patterns_are_told(llama: Task):
    with pytest.raises(DataError, match="sparse needs calibration data and got no batch"):
        Sparse()(llama.model, Data())
    with pytest.raises(UsageError, match=r"the pattern '\*.ffn' fits no linear layer"):
        Sparse(include=("*.ffn",))(llama.model, llama.data)
