"""Each option changes one layer at a time, as its pass does in the whole model; the others stay as they are."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edgepress.compress.options import OPTIONS, changed_layers, find_option
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.source import Task
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.quantized import BlockLinear
from edgepress.runtime.errors import UnknownName, UsageError

from .quantize_check import chain, data_of, largest_difference, model_of, random, run, run_file, seeded
from .tiny_encoders import read_tiny

HOST = find_device("host")
IMAGE = random(6, 3, 8, 8)


@pytest.fixture(scope="module")
def convolved() -> Task:
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()
    net = seeded(chain(*layers, nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4)))
    return Task(model_of(net, x=IMAGE[:2]), data_of({"x": IMAGE}))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return read_tiny(tmp_path_factory.mktemp("bert"), hidden_size=32, intermediate_size=64)


def layers_of(task: Task, text: str, *names: str) -> list[str]:
    option = find_option(text, HOST)
    return [variant.layer for variant in option.variants(task.model, task.data, names or option.names(task.model))]


def test_every_option_finds_layers_of_a_network(convolved: Task) -> None:
    linear, convolutions = ["layer.6", "layer.8"], ["layer.0", "layer.3"]
    assert {name: sorted(layers_of(convolved, name)) for name in OPTIONS} == {
        "int8": convolutions + linear,
        "static": convolutions + linear,
        "int4": linear,
        "packed": linear,
        "rank": convolutions + linear,
        "cut": ["layer.0", "layer.3", "layer.6"],
    }


def test_where_there_are_no_convolutions_int8_is_dynamic(bert: Task) -> None:
    (variant,) = find_option("int8", HOST).variants(bert.model, bert.data, ["encoder.pooler.dense"])
    assert variant.parts == ("encoder.pooler.dense",)
    whole = DynamicInt8(reduce_range=HOST.reduce_range)(bert.model, bert.data).module
    changed = changed_layers(bert.model.module, variant.model.module)
    assert list(changed) == ["encoder.pooler.dense"]
    expected = whole.get_submodule("encoder.pooler.dense").state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in changed["encoder.pooler.dense"].state_dict().items()
    )


def test_a_variant_is_the_model_but_for_one_layer(convolved: Task) -> None:
    before = {name: tensor.clone() for name, tensor in convolved.model.module.state_dict().items()}
    for variant in find_option("int4", HOST).variants(convolved.model, convolved.data, ["layer.6", "layer.8"]):
        state = variant.model.module.state_dict()
        same = [name for name in before if name in state and torch.equal(state[name], before[name])]
        assert [name for name in before if name not in same] == [f"{variant.layer}.weight"]
        assert type(variant.model.module.get_submodule(variant.layer)) is BlockLinear
        assert variant.base is convolved.model.module
    assert all(torch.equal(convolved.model.module.state_dict()[name], tensor) for name, tensor in before.items())


def test_the_layers_are_those_of_the_whole_compressed_model(convolved: Task) -> None:
    whole = changed_layers(convolved.model.module, WeightOnly()(convolved.model, convolved.data).module)
    for variant in find_option("int4", HOST).variants(convolved.model, convolved.data, list(whole)):
        changed = variant.model.module.get_submodule(variant.layer)
        assert torch.equal(changed.values, whole.pop(variant.layer).values)
    assert not whole


def test_static_rounds_one_layer_in_the_graph_and_the_base_is_the_same_graph(convolved: Task, tmp_path: Path) -> None:
    (variant,) = find_option("int8", HOST).variants(convolved.model, convolved.data, ["layer.3"])
    expected = StaticInt8(include=("layer.3",), activation="uint8")(convolved.model, convolved.data)
    if HOST.activation == "uint8" and not HOST.reduce_range:
        assert largest_difference(run(variant.model, x=IMAGE), run(expected, x=IMAGE)) == 0
    assert largest_difference(variant.base(x=IMAGE), run(convolved.model, x=IMAGE)) < 1e-5
    assert largest_difference(run(variant.model, x=IMAGE), run_file(variant.model, tmp_path, x=IMAGE)) < 1e-4
    assert variant.step is not None
    alone = model_of(chain(nn.Conv2d(1, 2, 3)), x=IMAGE[:, :1])
    assert variant.step(alone, data_of(alone.example)).history[-1].note.startswith("1 layers at int8")


def test_a_share_of_each_group_is_cut_with_all_that_reads_it(bert: Task) -> None:
    option = find_option("cut=0.5", HOST)
    names = [name for name in option.names(bert.model) if ".layer.1." in name]
    assert names == ["encoder.encoder.layer.1.attention.self", "encoder.encoder.layer.1.intermediate.dense"]
    heads, neurons = option.variants(bert.model, bert.data, names)
    assert heads.model.history[-1].note == "heads 2 -> 1, refitted"
    assert neurons.model.history[-1].note == "neurons 64 -> 32, refitted"
    assert neurons.parts == ("encoder.encoder.layer.1.intermediate.dense", "encoder.encoder.layer.1.output.dense")


def test_a_number_sets_the_share(convolved: Task) -> None:
    ranks = {}
    for text in ("rank=0.25", "rank", "rank=0.5"):
        (variant,) = find_option(text, HOST).variants(convolved.model, convolved.data, ["layer.6"])
        ranks[text] = variant.model.module.get_submodule("layer.6.0").out_features
    assert ranks == {"rank=0.25": 7, "rank": 14, "rank=0.5": 14}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int8=4", "the option 'int8=4' has a number, and int8 takes none"),
        ("rank=half", "the option 'rank=half' has no number; expected one as rank=0.5"),
        ("rank=1", "ratio = 1.0; expected a number between 0 and 1"),
        ("cut=1", "channels = 1.0; expected the share to cut"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_option(text, HOST)
    with pytest.raises(UnknownName, match="unknown option 'int9'; known: cut, int4, int8, packed, rank, static"):
        find_option("int9", HOST)
