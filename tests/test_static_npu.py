"""Static int8 for an NPU: integers from end to end, in the types that it takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgepress.compress.recipe import find_recipe
from edgepress.compress.static import StaticInt8
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.unsuited import unsuited
from edgepress.runtime.errors import UnsupportedError, UsageError

from .quantize_check import chain, model_of, random, seeded
from .static_check import QDQ, constants, nodes, quantized, relative_error

TAKES = ("uint8", "uint16")
SM8650 = find_device("sm8650")


def zeros(model) -> set[torch.dtype]:
    """The types of all activations that are quantized."""
    found = {constants(model, node)[1].dtype for node in nodes(model, QDQ)}
    assert found
    return found


def complaints(file: Path) -> tuple[str, ...]:
    npu = SM8650.npu
    assert npu is not None
    return unsuited(
        file, ops=npu.ops, weights=npu.weights, activations=npu.activations, provider=npu.provider, device="sm8650"
    )


@pytest.fixture(scope="module")
def linears():
    x = random(4, 20)
    return model_of(
        seeded(chain(nn.Linear(20, 16), nn.GELU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 3))), x=x
    )


@pytest.fixture(scope="module")
def network():
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    return model_of(seeded(chain(*layers)), x=random(4, 1, 9, 9))


def test_what_each_layer_writes_is_integers_and_linear_layers_alone_have_uint16(linears, tmp_path: Path):
    after = quantized(linears, step=StaticInt8(npu=TAKES))
    assert zeros(after) == {torch.uint16}
    assert len(nodes(after, QDQ)) == 6
    assert relative_error(linears, after, linears.example["x"]) < 0.02
    assert after.history[-1].settings["activation"] == "uint16"
    assert "activations at uint16" in after.history[-1].note
    assert complaints(export(after, "onnx", tmp_path / "net").model) == ()


def test_for_a_processor_what_linear_layers_write_stays_float(linears, tmp_path: Path):
    after = quantized(linears)
    assert zeros(after) == {torch.uint8}
    assert len(nodes(after, QDQ)) == 3
    (line,) = complaints(export(after, "onnx", tmp_path / "net").model)
    assert "integers in, floats out, the NPU takes integers on both sides; compress the model with --on sm8650" in line


def test_a_network_with_convolutions_has_the_first_type_that_the_npu_takes(network, tmp_path: Path):
    step = StaticInt8(npu=TAKES, reduce_range=True)
    after = quantized(network, step=step)
    assert zeros(after) == {torch.uint8}
    assert after.history[-1].note.startswith("2 layers")  # 9 products an output are too few for a processor
    assert quantized(network).history[-1].note.startswith("1 layers")
    assert complaints(export(after, "onnx", tmp_path / "net").model) == ()


def test_an_npu_without_uint16_gets_what_it_takes(linears):
    assert zeros(quantized(linears, step=StaticInt8(npu=("int16", "int8")))) == {torch.int8}
    assert zeros(quantized(linears, step=StaticInt8(npu=TAKES, activation="uint8"))) == {torch.uint8}


def test_types_that_the_npu_does_not_take_are_refused():
    with pytest.raises(UsageError, match="static_int8: activations of int8; the NPU takes uint8, uint16"):
        StaticInt8(npu=TAKES, activation="int8")
    with pytest.raises(UsageError, match="activations of uint8, int8, uint16; the NPU takes float16"):
        StaticInt8(npu=("float16",))


def test_weights_keep_8_bits_beside_uint16_and_7_where_sums_saturate(linears):
    fine = quantized(linears, step=StaticInt8(npu=TAKES, reduce_range=True))
    largest = max(int(v.abs().max()) for n, v in fine.module.named_buffers() if v.dtype == torch.int8)
    coarse = quantized(linears, step=StaticInt8(npu=("uint8",), reduce_range=True))
    assert largest == 127
    assert max(int(v.abs().max()) for n, v in coarse.module.named_buffers() if v.dtype == torch.int8) == 63


def test_the_recipe_int8_calibrates_once_for_an_npu_in_its_types():
    ((name, step),) = find_recipe("int8").targeting(SM8650).passes
    assert name == "static_int8"
    assert isinstance(step, StaticInt8)
    assert (step.npu, step.activation) == (TAKES, None)


def test_dynamic_layers_stay_those_of_the_recipe(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('[[pass]]\nname = "dynamic_int8"\nexclude = ["head*"]\n', encoding="utf-8")
    ((name, step),) = find_recipe(str(file)).targeting(SM8650).passes
    assert isinstance(step, StaticInt8)
    assert (name, step.include, step.exclude) == ("static_int8", ("*",), ("head*",))


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ('name = "packed_int8"', "packed_int8"),
        ('name = "qat"\npacked = {}', "qat"),
        ('name = "qat"\ndynamic = {}', "qat"),
        ('name = "mixed"\nmegabytes = 1', "mixed"),
    ],
)
def test_a_pass_that_quantizes_as_the_model_runs_is_refused_by_name(text: str, who: str, tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(f"[[pass]]\n{text}\n", encoding="utf-8")
    said = f"the recipe's {who} quantizes activations as the model runs, which the NPU of sm8650 does not do"
    with pytest.raises(UnsupportedError, match=said):
        find_recipe(str(file)).targeting(SM8650)
    find_recipe(str(file)).targeting(find_device("pi5"))


def test_weights_in_blocks_are_left_to_be_judged_by_their_operators(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('[[pass]]\nname = "mixed"\nmegabytes = 1\nweight_only = {}\n', encoding="utf-8")
    assert find_recipe(str(file)).targeting(SM8650).passes == find_recipe(str(file)).passes


def test_weights_that_the_npu_does_not_take_are_refused():
    assert SM8650.npu is not None
    other = replace(SM8650, npu=replace(SM8650.npu, weights=("int4",)))
    with pytest.raises(UnsupportedError, match="static_int8 stores weights as int8, the NPU of sm8650 takes int4"):
        find_recipe("int8").targeting(other)


def test_trained_static_int8_is_for_the_npu_too():
    ((_, step),) = find_recipe("qat").targeting(SM8650).passes
    assert step.static.npu == TAKES
