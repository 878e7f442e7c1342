"""Static int8: against integers counted by hand, against the exported file, and on whatever a network may hold."""

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional as F

from edgepress.compress.capture import aten
from edgepress.compress.data import Data
from edgepress.compress.static import StaticInt8, scale_and_zero
from edgepress.export.formats import export
from edgepress.runtime.errors import UnknownName, UsageError
from edgepress.runtime.session import load

from .quantize_check import HOST_RANGE, chain, data_of, largest_difference, model_of, random, run, run_file, seeded
from .static_check import DEQUANTIZE, DTYPES, QDQ, constants, image, nodes, quantized, relative_error


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), st.sampled_from(list(DTYPES)))
def test_scale_and_zero_point_are_onnxs_formula(low: float, width: float, activation: str) -> None:
    """scale = (max − min) / (qmax − qmin), zero = saturate(round(qmin − min / scale)), with 0 in the range."""
    dtype = DTYPES[activation]
    limits, high = torch.iinfo(dtype), low + width
    low, high = min(low, 0.0), max(high, 0.0)
    scale, zero = scale_and_zero(low, high, dtype)
    if high - low > 1e-9:
        assert scale.item() == pytest.approx((high - low) / 255)
        assert zero.item() == np.clip(np.round(limits.min - low / ((high - low) / 255)), limits.min, limits.max)
        ends = (limits.min - zero.item()) * scale.item(), (limits.max - zero.item()) * scale.item()
        assert ends == pytest.approx((low, high), abs=0.51 * scale.item())
    assert (scale.dtype, zero.dtype) == (torch.float32, dtype)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [(0.0, 2.55, 0.01, 0), (-2.55, 0.0, 0.01, 255), (1.0, 2.55, 0.01, 0), (-1.28, 1.27, 0.01, 128), (0, 0, 1 / 255, 0)],
    ids=["positive", "negative", "far from 0", "both", "zeros"],
)
def test_the_range_is_widened_to_hold_0(low: float, high: float, scale: float, zero: int) -> None:
    found = scale_and_zero(low, high, torch.uint8)
    assert (found[0].item(), found[1].item()) == (pytest.approx(scale), zero)
    assert scale_and_zero(low, high, torch.int8)[1].item() == zero - 128


# The numbers


def test_a_convolution_is_a_sum_of_integers() -> None:
    """y = s_x·s_w·(Σ (Q_x − z_x)·Q_w + Q_b), counted in whole numbers."""
    conv = seeded(nn.Conv2d(4, 3, 2))
    x = image[:1]
    after = quantized(model_of(chain(conv), x=x))
    (activation,) = nodes(after, QDQ)
    step, zero = constants(after, activation)
    weight_node, bias_node = nodes(after, DEQUANTIZE)
    (weight, scale), (bias, bias_scale) = constants(after, weight_node), constants(after, bias_node)
    assert (weight.dtype, bias.dtype) == (torch.int8, torch.int32)
    assert largest_difference(bias_scale, step * scale) == 0
    q = torch.clamp(torch.round(x / step) + int(zero), 0, 255).int() - int(zero)
    expected = torch.empty(1, 3, 8, 8, dtype=torch.float64)
    for channel, row, column in np.ndindex(3, 8, 8):
        window = q[0, :, row : row + 2, column : column + 2]
        total = int((window * weight[channel].int()).sum()) + int(bias[channel])
        expected[0, channel, row, column] = total * float(step) * float(scale[channel])
    assert largest_difference(run(after, x=x), expected) < 1e-6


def test_weights_are_per_channel_and_biases_count_in_steps_of_the_product() -> None:
    linear = seeded(nn.Linear(32, 5))
    after = quantized(model_of(chain(linear), x=random(4, 32)))
    weight, scale = constants(after, nodes(after, DEQUANTIZE)[0])
    assert largest_difference(scale, linear.weight.abs().amax(1) / 127) < 1e-9
    assert largest_difference(weight * scale[:, None], linear.weight) <= float(scale.max()) / 2 * 1.001
    bias, bias_scale = constants(after, nodes(after, DEQUANTIZE)[1])
    assert bool(((bias * bias_scale - linear.bias).abs() <= bias_scale * 0.501).all())


def test_reduce_range_keeps_weights_to_7_bits() -> None:
    """2·255·63 fits into 16 bits, 2·255·127 does not."""
    model = model_of(seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))), x=image)
    for reduce, largest in [(True, 63), (False, 127)]:
        after = quantized(model, step=StaticInt8(reduce_range=reduce))
        weights = [constants(after, node)[0] for node in nodes(after, DEQUANTIZE)]
        assert {int(w.abs().max()) for w in weights if w.dtype == torch.int8} == {largest}
        assert relative_error(model, after, image) < 0.05


class Residual(nn.Module):
    """Convolutions of every kind with batch norms, additions, pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        x = F.relu(self.point(self.depth(x)) + x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_the_file_gives_what_the_reference_gives(calibration: str, activation: str, tmp_path: Path) -> None:
    """Engines fuse and count in integers, where a value in the middle between two steps may fall either way: the
    tolerance is two steps of the largest activation, 1 % of the largest output here."""
    model = model_of(seeded(Residual()), x=image)
    step = StaticInt8(calibration, activation, reduce_range=True)  # pyright: ignore[reportArgumentType]
    after = quantized(model, *(random(4, 4, 9, 9, seed=i) for i in (1, 2, 3)), step=step)
    x = random(3, 4, 9, 9, seed=5)
    assert largest_difference(run_file(after, tmp_path, x=x), run(after, x=x)) < 0.01 * np.abs(run(after, x=x)).max()
    if calibration == "minmax":
        assert relative_error(model, after, x) < 0.1


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_the_digits_keep_every_label_of_the_reference(
    activation: str, digits_sample: ModuleType, digits_task: Path, tmp_path: Path
) -> None:
    """540 held-out scans: the file agrees with the torch reference on each, and is as good as float to 0.5 points."""
    from .conftest import import_file

    task = import_file(digits_task, "digits_task_static").task()
    digits = digits_sample.digits()
    step = StaticInt8(activation=activation, reduce_range=HOST_RANGE)  # pyright: ignore[reportArgumentType]
    after = step(task.model, task.data)
    images = digits.test_images
    reference = after(image=torch.from_numpy(images))["logits"].numpy()
    export(after, "onnx", tmp_path / "int8")
    session = load(tmp_path / "int8", threads=1)
    logits = np.concatenate([session(image=images[i : i + 60])["logits"] for i in range(0, 540, 60)])
    assert np.array_equal(logits.argmax(1), reference.argmax(1))
    assert largest_difference(logits, reference) < 0.01 * np.abs(reference).max()
    as_float = task.model(image=torch.from_numpy(images))["logits"].numpy()
    right = [(found.argmax(1) == digits.test_labels).mean() for found in (as_float, logits)]
    assert right[1] >= right[0] - 0.005
    assert session.artifact.bytes < 105_000


# What a network may hold


def fresh_seeded(*layers: nn.Module) -> nn.Module:
    return seeded(chain(*layers))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (fresh_seeded(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3)), image),
        (fresh_seeded(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)), image),
        (fresh_seeded(nn.Conv2d(4, 8, 3, padding="same", dilation=2), nn.Hardswish(), nn.Conv2d(8, 4, 3)), image),
        (fresh_seeded(nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3)), random(4, 4, 17)),
        (fresh_seeded(nn.Conv1d(4, 8, 3, padding="same"), nn.ReLU6(), nn.Conv1d(8, 4, 3)), random(4, 4, 17)),
        (fresh_seeded(nn.Linear(32, 16, bias=False), nn.GELU(), nn.Linear(16, 4)), random(4, 3, 32)),
        (fresh_seeded(nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 1)), random(4, 33)),
        (fresh_seeded(nn.Conv2d(4, 8, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 3)), image),
        (fresh_seeded(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), image),
    ],
    ids=["grouped", "depthwise", "dilated", "1d", "1d same", "3 axes", "odd widths", "flattened", "pooled"],
)
def test_other_shapes_of_products_agree_with_their_file(module: nn.Module, x: Tensor, tmp_path: Path) -> None:
    model = model_of(module, x=x)
    after = quantized(model, step=StaticInt8(reduce_range=True, min_products=1))
    assert "2 layers at int8" in after.history[-1].note
    assert relative_error(model, after, x) < 0.05
    file = run_file(after, tmp_path, x=x[:3])
    assert largest_difference(file, run(after, x=x[:3])) < 0.02 * np.abs(file).max()


def test_a_channel_without_weights_keeps_its_bias(tmp_path: Path) -> None:
    """As of a pruned filter, or a batch norm with γ = 0: the bias is not cut to what int32 counts in tiny steps."""
    conv = seeded(nn.Conv2d(4, 8, 3))
    conv.weight.data[2], conv.weight.data[3] = 0, 1e-12
    conv.bias.data[:] = torch.linspace(-3, 3, 8)
    model = model_of(chain(conv, seeded(nn.Conv2d(8, 4, 1))), x=image)
    after = quantized(model, step=StaticInt8(reduce_range=True, min_products=1))
    assert relative_error(model, after, image) < 0.05
    assert largest_difference(run_file(after, tmp_path, x=image), run(after, x=image)) < 0.01
    alone = run(quantized(model_of(chain(conv), x=image), step=StaticInt8(reduce_range=True, min_products=1)), x=image)
    expected = conv.bias.detach().numpy()[None, 2:4, None, None]  # all that is left of these channels
    np.testing.assert_allclose(alone[:, 2:4] - expected, 0, atol=1e-5)


def test_activations_that_are_always_zero_or_never_negative() -> None:
    dead = seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    dead.layer[0].bias.data[:] = -100  # pyright: ignore - nothing passes the first activation
    for calibration in ("minmax", "percentile", "entropy"):
        after = quantized(model_of(dead, x=image), step=StaticInt8(calibration))
        assert relative_error(model_of(dead, x=image), after, image) < 1e-4
    alive = model_of(seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))), x=image.abs() + 1)
    after = quantized(alive)
    assert all(int(constants(after, node)[1]) == 0 for node in nodes(after, QDQ))
    assert relative_error(alive, after, image.abs() + 1) < 0.05


class Twice(nn.Module):
    """Two layers, each called twice, on values of different ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.conv(x)) * 3).mean((2, 3))
        return self.linear(F.relu(self.linear(x)) * 5)


def test_a_layer_that_is_called_twice_is_stored_once_and_calibrated_for_each_call(tmp_path: Path) -> None:
    x = random(2, 16, 8, 8)
    model = model_of(seeded(Twice()), x=x)
    after = quantized(model, step=StaticInt8(reduce_range=True))
    weights = [b for b in after.module.buffers() if b.dtype == torch.int8]
    assert sorted(w.numel() for w in weights) == [16 * 16, 16 * 16 * 9]
    assert len({float(constants(after, node)[0]) for node in nodes(after, QDQ)}) >= 4
    assert relative_error(model, after, x) < 0.05
    assert largest_difference(run_file(after, tmp_path, x=x), run(after, x=x)) < 0.02 * np.abs(run(after, x=x)).max()
    stored = [t for t in onnx.load(str(tmp_path / "model.onnx")).graph.initializer if t.data_type == TensorProto.INT8]
    assert sum(math.prod(t.dims) for t in stored if len(t.dims) > 1) == 16 * 16 * 10


class WritesInto(nn.Module):
    """What is written into a part of a value after it was computed must not be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y[:, :4] *= 10
        y[:, 4:].relu_()
        return self.second(y)


def test_writing_into_a_value_reaches_its_readers() -> None:
    model = model_of(seeded(WritesInto()), x=image)
    assert relative_error(model, quantized(model), image) < 0.05


class Views(nn.Module):
    """Reshapes by sizes that are known at run time only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 8, 3), nn.Linear(8 * 49, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return self.linear(y.view(y.size(0), -1))


def test_a_value_stays_quantized_through_a_reshape_of_free_axes() -> None:
    after = quantized(model_of(seeded(Views()), x=image))
    view = nodes(after, aten.view.default)[0]
    assert view.all_input_nodes[0].target is QDQ
    (user,) = view.users
    assert user.target is QDQ
    assert user.args[1].target != ""
    same = [constants(after, node)[0].item() for node in (view.all_input_nodes[0], user)]
    assert same[0] == same[1]


class Names(nn.Module):
    """Input names that are Python's own, in another order than the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 4, 3), nn.Linear(16, 4)

    def forward(self, input: Tensor, type: Tensor) -> Tensor:  # noqa: A002
        return self.conv(input).mean((2, 3)) + self.linear(type)


def test_inputs_go_by_name_whatever_their_order() -> None:
    example = {"type": 100 * random(2, 16), "input": image[:2]}
    model = model_of(seeded(Names()), **example)
    after = StaticInt8()(model, data_of({"input": image[:2], "type": 100 * random(2, 16)}))
    assert largest_difference(run(after, **example), run(model, **example)) < 0.02 * np.abs(run(model, **example)).max()


# What is left alone


def test_a_convolution_that_adds_up_few_products_stays_float() -> None:
    def products(module: nn.Module, x: Tensor, **settings: int) -> str:
        return quantized(model_of(module, x=x), step=StaticInt8(**settings)).history[-1].note.partition(" ")[0]

    thin = seeded(chain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    assert products(thin, image[:, :1]) == "1"
    assert products(thin, image[:, :1], min_products=9) == "2"
    depthwise = seeded(chain(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    assert products(depthwise, image) == "2"
    grouped = seeded(chain(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    assert products(grouped, image) == "1"


def test_patterns_choose_the_layers_by_the_names_of_their_modules() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(200, 3))
    model, data = model_of(chain(seeded(net)), x=image), data_of({"x": image})
    kept = StaticInt8(exclude=("layer.0.2",))(model, data)
    alone = StaticInt8(include=("layer.0.2",))(model, data)
    assert [step.note.partition(";")[0] for step in (*kept.history, *alone.history)] == [
        "2 layers at int8, per channel", "1 layers at int8, per channel",
    ]  # fmt: skip
    weights = [constants(alone, node)[0].shape for node in nodes(alone, DEQUANTIZE)]
    assert weights[0] == (8, 8, 3, 3)
    with pytest.raises(UsageError, match=r"the pattern 'stem' fits no convolution or linear layer; .*like layer.0.0,"):
        StaticInt8(exclude=("stem",))(model, data)


def test_a_model_with_nothing_to_quantize_is_returned_as_it_is() -> None:
    for module in (nn.ReLU(), nn.LayerNorm(9)):
        model = model_of(chain(module), x=image)
        assert StaticInt8()(model, Data()) is model


def test_a_second_time_changes_nothing() -> None:
    after = quantized(model_of(seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))), x=image))
    assert quantized(after) is after


def test_the_model_at_hand_is_not_changed() -> None:
    module = seeded(Residual())
    model = model_of(module, x=image)
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    after = quantized(model)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not model.history
    assert after.example is model.example


def test_the_same_data_gives_the_same_graph() -> None:
    model = model_of(seeded(Residual()), x=image)
    first, second = quantized(model), quantized(model)
    assert first.module.code == second.module.code
    pairs = zip(first.module.named_buffers(), second.module.named_buffers(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


# Settings and history


@pytest.mark.parametrize(("given", "used"), [(None, "uint8"), ("uint8", "uint8"), ("int8", "int8")])
def test_the_history_says_which_types_were_used(given: str | None, used: str) -> None:
    model = model_of(seeded(chain(nn.Linear(32, 4))), x=random(4, 32))
    after = quantized(model, step=StaticInt8(activation=given))  # pyright: ignore[reportArgumentType]
    (step,) = after.history
    assert step.name == "static_int8"
    assert step.note == f"1 layers at int8, per channel; 1 activations at {used}"
    chosen = {
        "activation": used,
        "reduce_range": False,
        "npu": (),
        "min_products": 16,
        "include": ("*",),
        "exclude": (),
    }
    assert step.settings == {"calibration": "minmax"} | chosen
    assert constants(after, nodes(after, QDQ)[0])[1].dtype == DTYPES[used]


def test_settings_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown calibration 'mean'; known: entropy, minmax, percentile"):
        StaticInt8(calibration="mean")
    with pytest.raises(UsageError, match="activation = 'int16'; expected one of uint8, int8, uint16"):
        StaticInt8(activation="int16")  # pyright: ignore[reportArgumentType]


# Calibration data
