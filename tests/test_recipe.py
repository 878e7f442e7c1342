import json
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.distill import Distill
from edgepress.compress.qat import Qat
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.recipe import PASSES, Recipe, common_wishes, find_recipe, recipe_names, recipe_table
from edgepress.compress.static import StaticInt8
from edgepress.compress.train import Training
from edgepress.devices.device import find_device
from edgepress.export.model import Model
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import EdgepressError, InputError, UnknownName, UnsupportedError, UsageError


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    """The path of a recipe file with this text, as it is typed."""
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_that_ships_is_described_and_can_be_made(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.passes


def test_the_default_recipe_tries_static_int8_and_then_dynamic():
    assert find_recipe("int8").passes == (("static_int8", StaticInt8()), ("dynamic_int8", DynamicInt8()))


def test_a_recipe_of_the_users_is_named_after_its_file(tmp_path):
    file = written(tmp_path, '[[pass]]\nname = "weight_only"\nbits = 8\nlayers = ["embedding"]\n')
    recipe = find_recipe(file)
    assert recipe == Recipe("mine", "", (("weight_only", WeightOnly(bits=8, layers=("embedding",))),))
    assert recipe_table(file) == {"pass": [{"name": "weight_only", "bits": 8, "layers": ["embedding"]}]}


def test_a_pass_may_come_twice_with_other_settings(tmp_path):
    passes = '[[pass]]\nname = "weight_only"\nbits = 8\n[[pass]]\nname = "weight_only"\nbits = 4\n'
    assert [step.bits for _, step in find_recipe(written(tmp_path, passes)).passes] == [8, 4]  # pyright: ignore[reportAttributeAccessIssue]


# Settings without which a pass has nothing to do.
NEEDS = {"mixed": "cosine = 0.99", "qat": "static = {}"}


def test_every_pass_is_a_frozen_dataclass_which_a_recipe_can_name(tmp_path):
    for name in PASSES:
        (_, step), *rest = find_recipe(written(tmp_path, f'[[pass]]\nname = "{name}"\n{NEEDS.get(name, "")}')).passes
        assert not rest
        with pytest.raises(FrozenInstanceError):
            step.anything = 1  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Added:
    """A pass that adds a number to the bias of a linear layer."""

    number: float

    def __call__(self, model: Model, data: Data) -> Model:
        assert isinstance(model.module, nn.Linear)
        module = nn.Linear(2, 1)
        module.load_state_dict({"weight": model.module.weight, "bias": model.module.bias + self.number})
        return model.then(module, Step("added", {"number": self.number}))


def test_a_recipe_runs_its_passes_in_their_order_and_leaves_the_model_that_it_was_given():
    module = nn.Linear(2, 1)
    model = Model("net", module, {"input": torch.zeros(2, 2)}, ("y",), {"input": {0: "batch"}})
    before = module.bias.item()
    done = Recipe("two", "", (("added", Added(1.0)), ("added", Added(0.5))))(model, Data())
    assert done.module.bias.item() == pytest.approx(before + 1.5)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    assert [step.settings["number"] for step in done.history] == [1.0, 0.5]
    assert module.bias.item() == before
    assert model.history == ()


@pytest.mark.parametrize(("device", "activation"), [("pi5", "int8"), ("pi4", "int8")])
def test_what_is_left_to_the_device_is_filled_in(device, activation):
    targeted = find_recipe("int8").targeting(find_device(device))
    assert targeted.passes[0][1] == StaticInt8(activation=activation, reduce_range=False)
    assert targeted.passes[1] == ("dynamic_int8", DynamicInt8(reduce_range=False))


def test_what_the_recipe_says_goes_before_the_device(tmp_path):
    recipe = find_recipe(written(tmp_path, '[[pass]]\nname = "static_int8"\nactivation = "uint8"\n'))
    assert recipe.targeting(find_device("pi5")).passes[0][1] == StaticInt8(activation="uint8", reduce_range=False)
    device = replace(find_device("pi5"), activation="uint8", reduce_range=True)
    assert find_recipe("int8").targeting(device).passes[0][1] == StaticInt8(activation="uint8", reduce_range=True)


def test_what_is_left_to_the_format_is_filled_in_where_the_recipe_does_not_say_it(tmp_path):
    recipe = find_recipe(written(tmp_path, '[[pass]]\nname = "weight_only"\nshort_scales = false\n'))
    for to, symmetric in (("onnx", None), ("tflite", True)):
        (_, step), *_ = recipe.targeting(find_device("pi5"), to).passes
        assert step == WeightOnly(symmetric=symmetric, short_scales=False)
    (_, step), *_ = find_recipe("int4").targeting(find_device("pi5"), "tflite").passes
    assert step == WeightOnly(symmetric=True, short_scales=True)
    (_, step), *_ = find_recipe("int4").targeting(find_device("pi5"), "gguf").passes
    assert step == WeightOnly(short_scales=True, divide=False)


NESTED = """
[[pass]]
name = "qat"
dynamic = {smooth = 0.5}
[pass.weight_only]
layers = ["embedding"]
[pass.distill.training]
rate = 1
"""


def test_settings_of_settings_are_tables_and_the_device_fills_them_in_too(tmp_path):
    (_, step), *_ = find_recipe(written(tmp_path, NESTED)).targeting(find_device("pi5")).passes
    assert step == Qat(
        dynamic=DynamicInt8(smooth=0.5, reduce_range=False),
        weight_only=WeightOnly(layers=("embedding",)),
        distill=Distill(training=Training(rate=1.0)),
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("static = 8", "qat.static = 8; expected a table of settings"),
        ("static = {bits = 8}", "qat.static has the unknown setting 'bits'; known: activation, calibration"),
        ("weight_only = {bits = 5}", "weight_only: bits = 5; expected one of 4, 8"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_by_its_name(tmp_path, setting, message):
    with pytest.raises(UsageError, match=message):
        find_recipe(written(tmp_path, f'[[pass]]\nname = "qat"\n{setting}\n'))


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=f"unknown recipe 'int9'; known: {', '.join(recipe_names())}"):
        find_recipe("int9")


def test_a_recipe_file_that_is_not_there_is_told_apart_from_a_name():
    with pytest.raises(UsageError, match=r"there is no recipe file no\.toml; known recipes: .*int4, int8"):
        find_recipe("no.toml")


def test_an_unknown_pass_is_answered_with_the_known_ones(tmp_path):
    file = written(tmp_path, '[[pass]]\nname = "shrink"\n')
    with pytest.raises(UnknownName, match=f"unknown pass 'shrink'; known: {', '.join(sorted(PASSES))}"):
        find_recipe(file)


def test_an_unknown_setting_is_answered_with_the_known_ones(tmp_path):
    file = written(tmp_path, '[[pass]]\nname = "dynamic_int8"\nsmoth = 0.5\n')
    found = r"pass dynamic_int8 in recipe .*mine\.toml has the unknown setting 'smoth'"
    message = f"{found}; known: exclude, include, reduce_range, smooth"
    with pytest.raises(UsageError, match=message):
        find_recipe(file)


def test_an_unknown_key_beside_the_passes_is_refused(tmp_path):
    file = written(tmp_path, 'passes = 1\n[[pass]]\nname = "static_int8"\n')
    with pytest.raises(UsageError, match="unknown setting 'passes'; known: description, pass"):
        find_recipe(file)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bits = 4.0", "weight_only.bits = 4.0; expected int"),
        ("bits = true", "weight_only.bits = True; expected int"),
        ('bits = "4"', "weight_only.bits = '4'; expected int"),
        ("symmetric = 1", "weight_only.symmetric = 1; expected bool"),
        ('include = "*"', "weight_only.include = '[*]'; expected a list of str"),
        ("include = [1]", "weight_only.include = 1; expected str"),
        ("bits = 5", "weight_only: bits = 5; expected one of 4, 8"),
        ("block = 24", "weight_only: block = 24; expected a power of two, at least 16"),
        ('layers = ["conv"]', r"weight_only: layers = \['conv'\]; known kinds: linear, embedding"),
    ],
)
def test_a_setting_that_cannot_be_right_is_refused_by_its_name(tmp_path, setting, message):
    with pytest.raises(UsageError, match=message):
        find_recipe(written(tmp_path, f'[[pass]]\nname = "weight_only"\n{setting}\n'))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('activation = "int4"', "static_int8.activation = 'int4'; expected one of uint8, int8"),
        ('calibration = "mean"', "unknown calibration 'mean'; known: entropy, minmax, percentile"),
    ],
)
def test_a_word_that_a_setting_does_not_know_is_refused(tmp_path, setting, message):
    with pytest.raises(UsageError, match=message):
        find_recipe(written(tmp_path, f'[[pass]]\nname = "static_int8"\n{setting}\n'))


def test_a_whole_number_is_a_float_where_one_is_wanted(tmp_path):
    (_, step), *_ = find_recipe(written(tmp_path, '[[pass]]\nname = "dynamic_int8"\nsmooth = 1\n')).passes
    assert step == DynamicInt8(smooth=1.0)
    assert type(step.smooth) is float


@pytest.mark.parametrize("text", ["", 'description = "nothing"', "pass = 1", "pass = []", "pass = [1]",
                                  '[pass]\nname = "static_int8"'])  # fmt: skip
def test_a_recipe_without_passes_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match=r"has no passes; expected one or more \[\[pass\]\] tables with a name"):
        find_recipe(written(tmp_path, text))


@pytest.mark.parametrize("table", ["bits = 4", 'name = ["static_int8"]', "name = 8", 'name = ""'])
def test_a_pass_without_a_known_name_is_refused(tmp_path, table):
    with pytest.raises(UnknownName, match="unknown pass"):
        find_recipe(written(tmp_path, f"[[pass]]\n{table}\n"))


@pytest.mark.parametrize("content", [b"[[pass", b"name = static_int8", b"\xff\xfe", b"description = '\xfc'"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, content):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.toml is not TOML"):
        find_recipe(str(tmp_path / "bad.toml"))


words = st.sampled_from(["*", "int8", "linear", "minmax"])
numbers = st.booleans() | st.integers(-9, 99) | st.floats(-2, 2)
values = st.recursive(numbers | words, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
settings = st.sampled_from(["bits", "block", "symmetric", "layers", "include", "smooth", "activation", "calibration"])


@given(st.sampled_from(sorted(PASSES)), st.dictionaries(settings, values, max_size=3))
def test_settings_are_taken_as_they_are_or_refused_on_purpose(tmp_path, name, table):
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]  # of these values TOML and JSON are alike
    file = written(tmp_path, f'[[pass]]\nname = "{name}"\n' + "\n".join(lines))
    try:
        (_, step), *_ = find_recipe(file).passes
    except EdgepressError:
        return
    assert json.loads(json.dumps({key: getattr(step, key) for key in table})) == table


def test_one_choice_serves_several_formats(tmp_path):
    (_, step), *_ = find_recipe("int4").targeting(find_device("pi5"), "onnx", "tflite").passes
    assert step == WeightOnly(symmetric=True, short_scales=True)
    assert find_recipe("int4").targeting(find_device("pi5"), "tflite", "onnx").passes[0][1] == step
    recipe = find_recipe(written(tmp_path, '[[pass]]\nname = "weight_only"\nsymmetric = true\n'))
    assert recipe.targeting(find_device("pi5"), "onnx", "tflite").passes[0][1] == step


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ('[[pass]]\nname = "weight_only"\nsymmetric = false\n', "weight_only.symmetric"),
        ('[[pass]]\nname = "qat"\n[pass.weight_only]\nsymmetric = false\n', "qat.weight_only.symmetric"),
    ],
)
def test_what_a_recipe_says_and_one_of_several_formats_has_not_is_refused_by_name(tmp_path, text, setting):
    recipe = find_recipe(written(tmp_path, text))
    message = rf"says {setting} = false, tflite has symmetric = true; leave it out, or export without tflite"
    with pytest.raises(UnsupportedError, match=message):
        recipe.targeting(find_device("pi5"), "onnx", "tflite")
    assert recipe.targeting(find_device("pi5"), "onnx").passes[0][0] in ("weight_only", "qat")


def test_formats_that_want_different_things_of_a_setting_are_refused_by_name():
    table = {"a": {"symmetric": True}, "b": {"symmetric": False}, "c": {"symmetric": True, "short_scales": True}}
    assert common_wishes(("c", "onnx", "a"), table) == {"symmetric": ("c", True), "short_scales": ("c", True)}
    with pytest.raises(UnsupportedError, match="a has symmetric = true and b has symmetric = false: no one model"):
        common_wishes(("a", "b"), table)
