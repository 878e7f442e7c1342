"""The drop is what the equation says, on samples that nothing was calibrated on; the bytes are those of the file."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.options import find_option
from edgepress.compress.packed import PackedInt8
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.sensitivity import SAMPLES, Cost, Judge, describe, held_out, sensitivities, spread, stored_bytes
from edgepress.devices.device import find_device
from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UnsupportedError, UsageError

from .quantize_check import chain, data_of, model_of, random, seeded

HOST = find_device("host")


class Two(nn.Module):
    """A layer that the output depends on, and one that it hardly does."""

    def __init__(self) -> None:
        super().__init__()
        self.much, self.little, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.much(x) + 0.001 * self.little(x))


@pytest.fixture(scope="module")
def two() -> tuple[Model, Data]:
    model = model_of(seeded(Two()), x=random(4, 64))
    return replace(model, outputs=("logits",)), data_of({"x": random(40, 64, seed=1)})


def costs(model: Model, data: Data, *options: str, layers: tuple[str, ...] = ("*",)) -> list[Cost]:
    return [cost for cost, _ in sensitivities(model, data, [find_option(o, HOST) for o in options], layers)]


def test_the_drop_is_the_mean_distance_in_cosine_and_kl_that_of_the_shares(two: tuple[Model, Data]) -> None:
    model, _ = two
    changed = WeightOnly()(model, Data())
    samples = [{"x": random(3, 64, seed=2).numpy()}, {"x": random(1, 64, seed=3).numpy()}]
    cosines, divergences = [], []
    for batch in samples:
        for row in torch.from_numpy(batch["x"]):
            a, b = (m(x=row[None])["logits"][0].double().numpy() for m in (model, changed))
            cosines.append(a @ b / math.sqrt((a @ a) * (b @ b)))
            p, q = (np.exp(logits) / np.exp(logits).sum() for logits in (a, b))
            divergences.append((p * np.log(p / q)).sum())
    drop, kl = Judge(model, samples)(changed.module)
    assert drop == pytest.approx(1 - np.mean(cosines), rel=1e-3)
    assert kl == pytest.approx(np.mean(divergences), rel=1e-2)


def test_an_output_that_is_no_logits_has_no_kl(two: tuple[Model, Data]) -> None:
    model = replace(two[0], outputs=("y",))
    assert Judge(model, [{"x": random(2, 64).numpy()}])(model.module) == (pytest.approx(0, abs=1e-9), None)


def test_the_layer_that_the_output_depends_on_pays_most(two: tuple[Model, Data]) -> None:
    found = {(c.layer, c.option): c for c in costs(*two, "int8", "int4")}
    assert len(found) == 6
    for option in ("int8", "int4"):
        assert found["much", option].drop > 100 * found["little", option].drop
    assert found["much", "int4"].drop > found["much", "int8"].drop > 0
    much = found["much", "int4"]
    assert (much.kind, much.weights, much.bytes) == ("Linear 64 -> 64", 64 * 64, 4 * 65 * 64)


def test_patterns_choose_the_layers_and_progress_is_told(two: tuple[Model, Data]) -> None:
    told: list[str] = []
    found = costs(two[0], replace(two[1], tell=told.append), "int8", "int4", layers=("*e*d", "much"))
    assert [(c.layer, c.option) for c in found] == [(n, o) for o in ("int8", "int4") for n in ("much", "head")]
    assert told == [
        "running the model as it is",
        "int8: preparing", "int8: layer 1 of 2, much", "int8: layer 2 of 2, head",
        "int4: preparing", "int4: layer 1 of 2, much", "int4: layer 2 of 2, head",
    ]  # fmt: skip


def test_the_same_comes_out_again_and_the_model_stays_as_it_was(two: tuple[Model, Data]) -> None:
    before = {name: tensor.clone() for name, tensor in two[0].module.state_dict().items()}
    assert costs(*two, "packed", "rank") == costs(*two, "packed", "rank")
    assert all(torch.equal(tensor, before[name]) for name, tensor in two[0].module.state_dict().items())


def test_it_is_judged_on_what_the_score_judges_not_on_the_calibration_data(two: tuple[Model, Data]) -> None:
    model, data = two
    kept = [random(1, 64, seed=i).numpy() for i in range(5)]
    judged = replace(data, score=lambda session: {"n": float(sum(session(x=x)["logits"].size for x in kept))})
    assert all(np.array_equal(batch["x"], x) for batch, x in zip(held_out(model, judged), kept, strict=True))
    assert held_out(model, data) == data.calibration


def test_samples_are_taken_from_all_over() -> None:
    ones = [{"x": np.full((1, 2), i)} for i in range(3 * SAMPLES)]
    taken = [int(batch["x"][0, 0]) for batch in spread(ones)]
    assert taken == list(range(0, 3 * SAMPLES, 3))
    assert spread(ones[:SAMPLES]) == ones[:SAMPLES]
    assert len(spread([{"x": np.zeros((5 * SAMPLES, 2))}])) == 1


@pytest.mark.parametrize(
    "step",
    [WeightOnly(), WeightOnly(bits=8, symmetric=True), DynamicInt8(smooth=0.0), PackedInt8(gptq=False)],
    ids=["int4", "blocks of 8 bits", "int8", "packed"],
)
def test_the_bytes_are_those_that_the_file_loses(step, tmp_path: Path) -> None:
    model = model_of(seeded(chain(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))), x=random(4, 256))
    after = step(model, Data())
    saved = stored_bytes(model.module) - stored_bytes(after.module)
    files = [export(m, "onnx", tmp_path / name).bytes for m, name in ((model, "before"), (after, "after"))]
    assert saved == pytest.approx(files[0] - files[1], abs=4000)  # the nodes of the graph differ
    assert stored_bytes(model.module) == 4 * (256 * 257 + 64 * 257)


def test_layers_are_described_in_a_few_words() -> None:
    layers = nn.Linear(8, 2), nn.Embedding(9, 4), nn.Conv2d(6, 12, (3, 5), groups=2), nn.Conv1d(2, 3, 1)
    assert [describe([layer]) for layer in layers] == [
        "Linear 8 -> 2", "Embedding 9 -> 4", "Conv2d 3x5 6 -> 12", "Conv1d 1 2 -> 3",
    ]  # fmt: skip


def test_what_cannot_be_explained_is_told(two: tuple[Model, Data]) -> None:
    model, data = two
    with pytest.raises(UsageError, match="the pattern 'must' fits no explained layer; names look like much, little,"):
        costs(model, data, "int8", layers=("must",))
    with pytest.raises(DataError, match="there are no samples to compare on; bring --data"):
        costs(model, Data(), "int4")
    bare = model_of(chain(nn.ReLU()), x=random(2, 3))
    with pytest.raises(UnsupportedError, match="net has no layer for int8, int4; name other options"):
        costs(bare, data_of(bare.example), "int8", "int4")
