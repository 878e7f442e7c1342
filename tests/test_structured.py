"""Structured pruning ends in plain smaller tensors: chosen, printed, cut, refitted, and the same in the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.groups import table
from edgepress.compress.quantize import DynamicInt8
from edgepress.compress.recipe import find_recipe
from edgepress.compress.static import StaticInt8
from edgepress.compress.structured import StructuredPrune
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, UnsupportedError, UsageError

from .quantize_check import chain, data_of, model_of, random, seeded
from .tiny_encoders import read_tiny


def convolved() -> tuple[Model, Data]:
    net = chain(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 16, 4),
    )  # fmt: skip
    batches = [{"x": random(16, 1, 8, 8, seed=i)} for i in range(4)]
    return model_of(seeded(net), x=batches[0]["x"][:2]), data_of(*batches)


def cosine(a: Model, b: Model, batches: list) -> float:
    pairs = [
        [next(iter(m(**{k: torch.from_numpy(v) for k, v in x.items()}).values())) for m in (a, b)] for x in batches
    ]
    return float(torch.cat([nn.functional.cosine_similarity(x, y) for x, y in pairs]).mean())


def test_the_plan_says_what_will_be_cut_and_the_pass_prints_it_first(tmp_path: Path):
    task = read_tiny(tmp_path)
    told: list[str] = []
    step = StructuredPrune(heads=0.5, neurons=0.5)
    plan = step.plan(task.model, task.data)
    result = step(task.model, replace(task.data, tell=told.append))
    assert told[0] == table(plan)
    assert [line.split("  with")[0].split() for line in told[0].splitlines()] == [
        [f"encoder.encoder.layer.{i}.{part}", *words.split()]
        for part, words in (("attention.self", "heads 2 -> 1"), ("intermediate.dense", "neurons 32 -> 16"))
        for i in range(2)
    ]
    (taken,) = result.history
    assert taken.name == "structured"
    assert taken.note == "heads 4 -> 2 in 2 groups, neurons 64 -> 32 in 2 groups, refitted"
    assert taken.settings["neurons"] == 0.5


@pytest.mark.parametrize("kind", ["albert", "bert", "distilbert"])
def test_the_exported_file_is_smaller_and_computes_what_the_pruned_module_does(kind: str, tmp_path: Path):
    task = read_tiny(tmp_path, kind)
    result = StructuredPrune(heads=0.5, neurons=0.5)(task.model, task.data)
    first, small = (export(m, "onnx", tmp_path / n) for m, n in ((task.model, "first"), (result, "small")))
    assert small.bytes < first.bytes
    session = load(small.path)
    for batch in list(task.data.calibration)[:2]:
        for size in (1, 3):  # other lengths than the example's: the axes are free
            inputs = {name: array[:size] for name, array in batch.items()}
            expected = result(**{name: torch.from_numpy(array) for name, array in inputs.items()})
            found = session(**inputs)
            assert all(np.abs(found[name] - expected[name].numpy()).max() < 1e-5 for name in expected)


def test_a_convolutional_network_goes_through_the_file_as_well(tmp_path: Path):
    model, data = convolved()
    result = StructuredPrune(channels=0.5)(model, data)
    assert result.module.layer[0].out_channels == result.module.layer[3].out_channels == 8
    assert result.history[-1].note == "channels 32 -> 16 in 2 groups, refitted"
    found = load(export(result, "onnx", tmp_path / "net").path)(x=random(5, 1, 8, 8).numpy())["y"]
    assert np.abs(found - result(x=random(5, 1, 8, 8))["y"].numpy()).max() < 1e-5


def test_what_was_pruned_can_be_quantized(tmp_path: Path):
    model, data = convolved()
    task = read_tiny(tmp_path)
    for whole, batches, step in ((model, data, StaticInt8()), (task.model, task.data, DynamicInt8(smooth=0.0))):
        pruned = StructuredPrune(channels=0.5, neurons=0.5)(whole, batches)
        small = step(pruned, batches)
        assert [taken.name for taken in small.history] in (
            ["structured", "static_int8"],
            ["structured", "dynamic_int8"],
        )
        sizes = [export(m, "onnx", tmp_path / f"{m.name}-{len(m.history)}").bytes for m in (pruned, small)]
        assert sizes[1] < sizes[0]


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "activation"])
def test_a_refitted_model_is_nearer_to_the_whole_one(importance, tmp_path: Path):
    task = read_tiny(tmp_path)
    batches = list(task.data.calibration)
    plain, refitted = (
        StructuredPrune(neurons=0.5, importance=importance, refit=refit)(task.model, task.data)
        for refit in (False, True)
    )
    assert cosine(task.model, refitted, batches) > cosine(task.model, plain, batches)
    model, data = convolved()
    plain, refitted = (
        StructuredPrune(channels=0.5, importance=importance, refit=refit)(model, data) for refit in (False, True)
    )
    assert cosine(model, refitted, list(data.calibration)) > cosine(model, plain, list(data.calibration))


def test_it_is_the_same_to_the_bit_each_time(tmp_path: Path):
    task = read_tiny(tmp_path)
    one, two = (StructuredPrune(neurons=0.5, importance="taylor")(task.model, task.data).module for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_model_at_hand_is_not_changed(tmp_path: Path):
    task = read_tiny(tmp_path)
    before = {name: tensor.clone() for name, tensor in task.model.module.state_dict().items()}
    StructuredPrune(heads=0.5, neurons=0.5, layers=0.5)(task.model, task.data)
    after = task.model.module.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_go_by_a_ratio_or_by_their_numbers(tmp_path: Path):
    task = read_tiny(tmp_path, num_hidden_layers=4)
    named = StructuredPrune(layers_kept=(1, 3))(task.model, task.data)
    assert named.history[-1].note == "layers 4 -> 2"
    layers = task.model.module.encoder.encoder.layer
    kept = named.module.encoder.encoder.layer
    assert torch.equal(kept[1].output.dense.weight, layers[3].output.dense.weight)
    least = StructuredPrune(layers=0.5)
    (group,) = least.plan(task.model, task.data)
    assert len(group.kept) == 2
    both = StructuredPrune(layers=0.5, neurons=0.5)(task.model, task.data)
    assert both.history[-1].note == "layers 4 -> 2, neurons 64 -> 32 in 2 groups, refitted"


def test_ratios_set_the_share_of_single_groups(tmp_path: Path):
    task = read_tiny(tmp_path)
    step = StructuredPrune(neurons=0.5, ratios=("*.layer.0.inter*=0", "*.layer.1.attention.self=0.5"))
    sizes = {group.name: len(group.kept) for group in step.plan(task.model, task.data)}
    assert list(sizes.values()) == [2, 1, 32, 16]


def test_neurons_stay_in_multiples():
    model = model_of(seeded(chain(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2))), x=random(3, 4))
    data = data_of({"x": random(30, 4)})
    sizes = [len(StructuredPrune(neurons=0.5, round_to=n).plan(model, data)[0].kept) for n in (1, 8, 16, 64)]
    assert sizes == [20, 24, 32, 40]


def test_training_inputs_help_where_calibration_is_short():
    model, data = convolved()
    short = replace(data, calibration=list(data.calibration)[:1])
    more = replace(short, training=[{**b, "label": np.zeros(16, np.int64)} for b in list(data.calibration)[1:]])
    full = StructuredPrune(channels=0.5, importance="magnitude")(model, data).module
    helped = StructuredPrune(channels=0.5, importance="magnitude")(model, more).module
    alone = StructuredPrune(channels=0.5, importance="magnitude", refit_samples=16)(model, more).module
    assert all(torch.equal(a, b) for a, b in zip(full.parameters(), helped.parameters(), strict=True))
    assert not torch.equal(alone.layer[6].weight, full.layer[6].weight)


def test_a_model_with_nothing_to_cut_comes_back_as_it_is(tmp_path: Path):
    task = read_tiny(tmp_path)
    assert StructuredPrune()(task.model, task.data) is task.model
    assert StructuredPrune(channels=0.5)(task.model, task.data) is task.model
    assert StructuredPrune(layers=0.5, heads=0.5)(plain := convolved()[0], Data()) is plain


def test_half_cuts_half_of_the_neurons_or_of_the_channels(tmp_path: Path):
    task, (model, data) = read_tiny(tmp_path), convolved()
    assert find_recipe("half")(task.model, task.data).history[-1].note.startswith("neurons 64 -> 32")
    assert find_recipe("half")(model, data).history[-1].note.startswith("channels 32 -> 16")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"neurons": 1.0}, "neurons = 1.0; expected the share to cut"),
        ({"channels": -0.1}, "channels = -0.1; expected the share to cut"),
        ({"ratios": ("*=1",)}, r"ratios '\*' = 1.0; expected the share to cut"),
        ({"ratios": ("layer",)}, "expected pattern=ratio"),
        ({"importance": "random"}, "importance = 'random'; expected one of magnitude, taylor, activation"),
        ({"round_to": 0}, "round_to = 0; expected 1"),
        ({"refit_samples": 0}, "refit_samples = 0; expected 1"),
        ({"layers": 0.5, "layers_kept": (0,)}, "name one of them"),
        ({"layers_kept": (2, 0)}, r"layers_kept = \[2, 0\]; expected rising numbers from 0"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, words: str):
    with pytest.raises(UsageError, match=words):
        StructuredPrune(**settings)


def test_layers_and_patterns_that_are_not_there_are_refused(tmp_path: Path):
    task = read_tiny(tmp_path)
    with pytest.raises(UsageError, match=r"layers_kept = \[0, 7\], and encoder.encoder.layer has the layers 0 to 1"):
        StructuredPrune(layers_kept=(0, 7))(task.model, task.data)
    with pytest.raises(UsageError, match=r"the pattern '\*.layer.9.\*' in ratios fits no group; names look like"):
        StructuredPrune(ratios=("*.layer.9.*=0.5",))(task.model, task.data)
    with pytest.raises(UsageError, match="net has no list of transformer layers"):
        StructuredPrune(layers_kept=(0,))(*convolved())


def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path):
    mpnet, albert = read_tiny(tmp_path / "m", "mpnet"), read_tiny(tmp_path / "a", "albert", num_hidden_groups=1)
    with pytest.raises(UnsupportedError, match=r"heads of .*layer\.0\.heads cannot be cut: all layers share one table"):
        StructuredPrune(heads=0.5)(mpnet.model, mpnet.data)
    assert StructuredPrune(neurons=0.5)(mpnet.model, mpnet.data).history
    with pytest.raises(UnsupportedError, match=r"cannot be cut: one set of weights is run again"):
        StructuredPrune(layers=0.5)(albert.model, albert.data)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[2](torch.relu(self.body[0](x)).reshape(-1, 16))


def test_a_model_whose_code_holds_the_sizes_is_refused():
    model = model_of(Counting(), x=random(3, 4))
    with pytest.raises(UnsupportedError, match="net does not run after the cut"):
        StructuredPrune(neurons=0.5)(model, data_of({"x": random(30, 4)}))


def test_data_that_is_missing_is_told(tmp_path: Path):
    task = read_tiny(tmp_path)
    with pytest.raises(DataError, match="needs calibration data"):
        StructuredPrune(neurons=0.5)(task.model, Data())
    assert StructuredPrune(neurons=0.5, importance="magnitude", refit=False)(task.model, Data()).history
