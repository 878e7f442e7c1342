"""Static int8 and its data: calibration that streams, and what is refused."""

import gc
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Batch, Data
from edgepress.compress.static import StaticInt8
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, ModelError

from .quantize_check import chain, data_of, model_of, random, seeded
from .static_check import QDQ, constants, image, nodes, quantized


def small() -> Model:
    return model_of(seeded(chain(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))), x=image)


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_ranges_do_not_depend_on_how_the_data_is_cut(calibration: str) -> None:
    """To the rounding of float32 sums, which come in another order in another batch size."""
    parts: list[Sequence[Tensor]] = [[image], [image[:1], image[1:]], [image[3:], image[:3]]]
    found = [StaticInt8(calibration)(small(), data_of(*({"x": x} for x in part))) for part in parts]
    for after in found[1:]:
        for a, b in zip(nodes(found[0], QDQ), nodes(after, QDQ), strict=True):
            assert constants(after, b)[0].item() == pytest.approx(constants(found[0], a)[0].item(), rel=1e-5)
            assert constants(after, b)[1].item() == constants(found[0], a)[1].item()


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    alive: list[int] = []

    def stream() -> Iterator[Batch]:
        for seed in range(8):
            gc.collect()
            alive.append(sum(t.numel() for t in gc.get_objects() if type(t) is Tensor))
            yield {"x": random(4, 4, 9, 9, seed=seed).numpy()}

    after = StaticInt8("entropy")(small(), Data(calibration=stream()))
    assert len(alive) == 8
    assert alive[-1] <= alive[1]
    assert len(nodes(after, QDQ)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "static_int8 needs calibration data and got no batch"),
        ([{"x": np.zeros((0, 4, 9, 9), np.float32)}], "calibration saw no values"),
        ([{"image": image.numpy()}], r"has the inputs \['image'\]; the model takes \['x'\]"),
        ([{"x": image.numpy()[:, :3]}], r"does not run on a calibration batch of shape \{'x': \[4, 3, 9, 9\]\}"),
        ([{"x": image.double().numpy()}], "does not run on a calibration batch"),
        ([{"x": np.where(image.numpy() > 2, np.nan, image.numpy())}], "'x' holds .* values that are NaN"),
    ],
    ids=["none", "empty", "wrong name", "wrong shape", "wrong type", "NaN"],
)
def test_data_that_cannot_be_used_is_refused(data: list[Batch], message: str) -> None:
    with pytest.raises(DataError, match=message):
        StaticInt8()(small(), Data(calibration=data))


class Explodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.log(x))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_a_nan_that_arises_on_the_way_is_refused(calibration: str) -> None:
    model = model_of(seeded(Explodes()), x=image.abs() + 0.1)
    with pytest.raises(DataError, match="an activation is NaN or infinite during calibration"):
        StaticInt8(calibration)(model, data_of({"x": image}))


def test_weights_that_are_not_finite_are_refused() -> None:
    broken: Callable[[], nn.Conv2d] = lambda: nn.Conv2d(4, 8, 3)  # noqa: E731
    conv = broken()
    conv.weight.data[1, 1] = float("nan")
    model = model_of(chain(nn.Sequential(conv)), x=image)
    with pytest.raises(ModelError, match="holds nan"):
        quantized(model)
