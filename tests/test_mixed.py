"""Mixed precision spends its bytes where they count: within its budget, against every combination, in the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.layers import with_layers
from edgepress.compress.mixed import Mixed
from edgepress.compress.options import changed_layers
from edgepress.compress.packed import PackedInt8
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.recipe import find_recipe
from edgepress.compress.sensitivity import Judge, held_out, stored_bytes
from edgepress.compress.source import Task
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.export.quantized import DynamicLinear, PackedLinear
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, UsageError

from .quantize_check import chain, data_of, model_of, random
from .tiny_encoders import read_tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_tiny(tmp_path_factory.mktemp("bert"), lines=60, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def sizes(bert: Task) -> tuple[int, int]:
    """Bytes with every Linear packed, and with every Linear dynamic."""
    packed, dynamic = (step(bert.model, bert.data).module for step in (PackedInt8(), DynamicInt8()))
    return stored_bytes(packed), stored_bytes(dynamic)


def drop(task: Task, module: nn.Module) -> float:
    """On samples that no pass has seen."""
    return Judge(task.model, held_out(task.model, task.data))(module)[0]


def layers(model: Model) -> dict[str, str]:
    names = {"DynamicLinear": "8", "Divided": "8", "PackedLinear": "4", "Linear": "float"}
    return {
        name: names[type(part).__name__]
        for name, part in model.module.named_modules()
        if type(part).__name__ in names and not name.endswith(".layer")
    }


def test_the_model_takes_no_more_than_its_budget_and_uses_it(bert: Task, sizes: tuple[int, int]) -> None:
    least, most = sizes
    for share in (0.0, 0.3, 0.6, 1.0):
        budget = least + share * (most - least)
        mixed = Mixed(megabytes=budget / 1e6)(bert.model, bert.data)
        taken = stored_bytes(mixed.module)
        assert budget - 8500 <= taken <= budget  # the largest raise is 64 x 128 weights
    assert set(layers(mixed).values()) >= {"4", "8"}


def test_bits_are_what_a_weight_takes_on_average(bert: Task) -> None:
    linear = [part for part in bert.model.module.modules() if isinstance(part, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linear)
    others = stored_bytes(bert.model.module) - sum(map(stored_bytes, linear))
    for bits in (6.0, 7.5):
        taken = stored_bytes(Mixed(bits=bits)(bert.model, bert.data).module) - others
        assert bits - 8 * 8500 / weights <= 8 * taken / weights <= bits


def test_its_bytes_count_for_more_than_the_same_bytes_spent_in_the_layers_order(
    bert: Task, sizes: tuple[int, int]
) -> None:
    budget = sum(sizes) / 2
    mixed = Mixed(megabytes=budget / 1e6)(bert.model, bert.data).module
    packed, dynamic = (
        changed_layers(bert.model.module, step(bert.model, bert.data).module) for step in (PackedInt8(), DynamicInt8())
    )
    for order in (list(packed), list(packed)[::-1]):
        chosen, left = dict(packed), budget - sizes[0]
        for name in order:
            more = stored_bytes(dynamic[name]) - stored_bytes(packed[name])
            if more <= left:
                chosen[name], left = dynamic[name], left - more
        assert drop(bert, mixed) < drop(bert, with_layers(bert.model.module, chosen))


def test_it_is_nearer_than_all_layers_dynamic_and_smaller(bert: Task, sizes: tuple[int, int]) -> None:
    mixed = Mixed(megabytes=sizes[1] / 1e6)(bert.model, bert.data).module
    dynamic = DynamicInt8()(bert.model, bert.data).module
    assert stored_bytes(mixed) < stored_bytes(dynamic)
    assert drop(bert, mixed) < drop(bert, dynamic)


def test_a_floor_of_the_cosine_is_kept_with_fewer_bytes_where_it_is_lower(bert: Task) -> None:
    taken = []
    for floor in (0.9999, 0.999995, 0.99999999):
        mixed = Mixed(cosine=floor)(bert.model, bert.data)
        judged = Judge(bert.model, list(bert.data.calibration))(mixed.module)[0]
        assert judged <= 1 - floor + 1e-12
        taken.append(stored_bytes(mixed.module))
    assert taken == sorted(taken)
    assert taken[0] < taken[-1]


def test_the_file_computes_what_the_mixed_module_does(bert: Task, sizes: tuple[int, int], tmp_path: Path) -> None:
    host = find_device("host").reduce_range
    passes = Mixed(
        megabytes=sum(sizes) / 2e6, dynamic=DynamicInt8(reduce_range=host), packed=PackedInt8(reduce_range=host)
    )
    mixed = passes(bert.model, bert.data)
    (step,) = mixed.history
    assert step.name == "mixed"
    assert step.note.startswith("layers: ")
    session = load(export(mixed, "onnx", tmp_path / "mixed").path)
    batch = next(iter(bert.data.calibration))
    expected = mixed(**{name: torch.from_numpy(array) for name, array in batch.items()})["sentence_embedding"].numpy()
    assert np.abs(session(**batch)["sentence_embedding"] - expected).max() < 0.02


def test_the_same_comes_out_again_and_the_model_stays_as_it_was(bert: Task, sizes: tuple[int, int]) -> None:
    before = {name: tensor.clone() for name, tensor in bert.model.module.state_dict().items()}
    first, second = (Mixed(megabytes=sum(sizes) / 2e6)(bert.model, bert.data) for _ in range(2))
    assert layers(first) == layers(second)
    states = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.model.module.state_dict().items())


def test_passes_to_choose_from_are_named_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mixed.toml").write_text(
        '[[pass]]\nname = "mixed"\ncosine = 0.99\ndynamic = {smooth = 0.5}\nweight_only = {layers = ["linear"]}\n',
        encoding="utf-8",
    )
    ((name, step),) = find_recipe(str(tmp_path / "mixed.toml")).targeting(find_device("pi4")).passes
    wanted = DynamicInt8(smooth=0.5, reduce_range=find_device("pi4").reduce_range)
    assert (name, step) == ("mixed", Mixed(cosine=0.99, dynamic=wanted, weight_only=WeightOnly(layers=("linear",))))


def test_a_model_without_linear_layers_comes_back_as_it_is() -> None:
    model = model_of(chain(nn.Conv2d(1, 2, 3)), x=random(2, 1, 4, 4))
    assert Mixed(cosine=0.9)(model, data_of(model.example)) is model
    assert not isinstance(model.module, DynamicLinear | PackedLinear)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "expected one of megabytes, what the model may take, bits, what a weight may take, and cosine"),
        ({"megabytes": 1.0, "cosine": 0.9}, "expected one of megabytes"),
        ({"megabytes": 0.0}, "megabytes = 0.0; expected a number above 0"),
        ({"bits": -1.0}, "bits = -1.0; expected a number above 0"),
        ({"cosine": 1.0}, "cosine = 1.0; expected a number between 0 and 1, as 0.99"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Mixed(**settings)


def test_a_budget_that_nothing_fits_and_missing_data_are_told(bert: Task) -> None:
    with pytest.raises(UsageError, match=r"megabytes = 0.05, and the smallest choices take 0\.07; allow more"):
        Mixed(megabytes=0.05)(bert.model, bert.data)
    with pytest.raises(UsageError, match=r"bits = 3\.0, and the smallest choices take 5\.13; allow more"):
        Mixed(bits=3.0)(bert.model, bert.data)
    with pytest.raises(DataError, match="there are no samples to compare on"):
        Mixed(cosine=0.9)(bert.model, Data())
