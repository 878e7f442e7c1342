"""Samples of an `.npz`: half of them calibrate, the others judge, and what does not fit the model is told."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgepress.compress.npz import read_npz
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError


class Sums(nn.Module):
    """Classes 0 to 2: which of three columns is the largest."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Sequences(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return (ids * mask).sum(1, keepdim=True).float() + torch.arange(3)


class State(nn.Module):
    """Inputs without a batch: a scalar, a signal, and a state of another first axis."""

    def forward(self, rate: Tensor, signal: Tensor, state: Tensor) -> Tensor:
        return signal * rate + state.sum()


def classifier(*shape: int, free: tuple[int, ...] = (0,)) -> Model:
    axes = {"x": {axis: ("batch", "width")[axis] for axis in free}}
    return Model("net", Sums(), {"x": torch.ones(shape or (2, 3))}, ("logits",), axes if free else {})


def sequences() -> Model:
    ids = torch.ones(2, 4, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "sequence"} for name in ("ids", "mask")}
    return Model("sequences", Sequences(), {"ids": ids, "mask": ids}, ("y",), axes)


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "batch.npz", **arrays)
    return folder / "batch.npz"


def numbered(count: int) -> np.ndarray:
    """Sample i holds i in its first column."""
    x = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    x[:, 0] = np.arange(count)
    return x


class Session:
    """Runs the model, and remembers the samples that it was judged by."""

    def __init__(self, model: Model) -> None:
        self.model, self.seen, self.sizes = model, list[int](), list[int]()

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        first = next(iter(inputs.values()))
        self.sizes.append(len(first))
        self.seen += first[:, 0].astype(int).tolist()
        return {k: v.numpy() for k, v in self.model(**{n: torch.from_numpy(a) for n, a in inputs.items()}).items()}


@given(runs=st.integers(1, 32), at_once=st.sampled_from([0, 1, 3, 16]), labelled=st.booleans())
def test_every_sample_calibrates_or_judges_and_none_does_both(tmp_path: Path, runs: int, at_once: int, labelled: bool):
    model = classifier() if at_once == 0 else classifier(at_once, 3, free=())
    x = numbered(runs * max(at_once, 1))
    labels = {"labels": (2 * x).argmax(1)} if labelled else {}
    model, data = read_npz(model, save(tmp_path, x=x, **labels))
    calibrated = [int(i) for batch in data.calibration for i in batch["x"][:, 0]]
    session = Session(model)
    assert data.score is not None
    figures = data.score(session)
    assert set(figures) == ({"top1"} if labelled else {"cosine", "worst_cosine", "neighbour"} & set(figures))
    assert next(iter(figures.values())) == pytest.approx(1)
    if runs > 1:
        assert sorted(calibrated + session.seen) == list(range(len(x)))
    else:
        assert calibrated == session.seen == list(range(len(x)))
    sizes = [len(batch["x"]) for batch in data.calibration] + session.sizes
    assert all(size == at_once for size in sizes) if at_once else max(sizes) <= 16
    assert all(set(batch) == {"x"} for batch in data.calibration)


def test_fidelity_looks_at_no_more_than_256_samples(tmp_path: Path):
    model, data = read_npz(classifier(), save(tmp_path, x=numbered(2000)))
    session = Session(model)
    assert data.score is not None
    data.score(session)
    assert len(session.seen) == 256


def test_labels_go_with_their_samples(tmp_path: Path):
    x = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    wrong = x.argmax(1)
    wrong[[1, 3, 5, 7, 9]] += 1  # five of the twenty that judge
    _, data = read_npz(classifier(), save(tmp_path, x=x, labels=wrong % 3))
    assert data.score is not None
    assert data.score(lambda **inputs: {"logits": inputs["x"]}) == {"top1": 0.75}


def test_the_first_samples_become_the_example(tmp_path: Path):
    x = numbered(5)
    model, _ = read_npz(classifier(), save(tmp_path, x=x))
    assert np.array_equal(model.example["x"].numpy(), x[:2])
    fixed, _ = read_npz(classifier(1, 3, free=()), save(tmp_path, x=x))
    assert np.array_equal(fixed.example["x"].numpy(), x[:1])


def test_an_example_too_short_to_keep_an_axis_free_is_not_taken(tmp_path: Path):
    before = classifier()
    assert read_npz(before, save(tmp_path, x=numbered(1)))[0].example is before.example
    ids = np.ones((6, 1), np.int64)
    before = sequences()
    assert read_npz(before, save(tmp_path, ids=ids, mask=ids))[0].example is before.example


def test_a_free_axis_may_have_any_length(tmp_path: Path):
    ids = np.arange(60).reshape(6, 10)
    model, data = read_npz(sequences(), save(tmp_path, ids=ids, mask=np.ones_like(ids)))
    assert model.example["ids"].shape == (2, 10)
    assert [batch["mask"].shape for batch in data.calibration] == [(3, 10)]


def state() -> Model:
    example = {"rate": torch.tensor(2.0), "signal": torch.ones(4), "state": torch.ones(2, 1)}
    return Model("state", State(), example, ("y",), {})


def test_inputs_without_a_first_axis_in_common_are_one_run(tmp_path: Path):
    arrays = {"rate": np.float32(3), "signal": np.arange(4, dtype=np.float32), "state": np.zeros((2, 1), np.float32)}
    model, data = read_npz(state(), save(tmp_path, **arrays))
    assert [set(batch) for batch in data.calibration] == [{"rate", "signal", "state"}]
    assert model.example["signal"].tolist() == [0, 1, 2, 3]
    assert data.score is not None
    with pytest.raises(DataError, match="labels, but the model's inputs have no first axis in common"):
        read_npz(state(), save(tmp_path, **arrays, labels=np.arange(4)))
    with pytest.raises(DataError, match=r"'signal' is float32\[5\]; the model takes signal float32\[4\]"):
        read_npz(state(), save(tmp_path, **arrays | {"signal": np.zeros(5, np.float32)}))


def test_an_input_named_labels_is_an_input(tmp_path: Path):
    class Labelled(nn.Module):
        def forward(self, labels: Tensor) -> Tensor:
            return labels * 2

    model = Model("net", Labelled(), {"labels": torch.ones(2, 3)}, ("y",), {"labels": {0: "batch"}})
    assert [b["labels"].shape for b in read_npz(model, save(tmp_path, labels=numbered(4)))[1].calibration] == [(2, 3)]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, r"holds the arrays \[\]; the model takes \['x'\]"),
        ({"y": numbered(4)}, r"holds the arrays \['y'\]; the model takes \['x'\]"),
        ({"x": numbered(4), "y": numbered(4)}, r"holds the arrays \['x', 'y'\]"),
        ({"x": numbered(4).astype(np.float64)}, r"'x' is float64\[4, 3\]; the model takes x float32\[batch, 3\]"),
        ({"x": numbered(4)[:, :2]}, r"'x' is float32\[4, 2\]; the model takes x float32\[batch, 3\]"),
        ({"x": numbered(4)[0]}, r"'x' is float32\[3\]"),
        ({"x": numbered(4)[None]}, r"'x' is float32\[1, 4, 3\]"),
        ({"x": np.array(["a"])}, r"'x' is <U1\[1\]"),
        ({"x": numbered(0)}, r"so many samples: {'x': 0}; expected the same number for each, and at least one"),
        ({"x": numbered(4), "labels": np.arange(3) % 3}, r"so many samples: {'x': 4, 'labels': 3}"),
        ({"x": numbered(4), "labels": np.array(1)}, r"so many samples: {'x': 4, 'labels': 0}"),
        ({"x": numbered(4), "labels": np.zeros((4, 1), int)}, r"labels are int64\[4, 1\].*expected int \[samples\]"),
        ({"x": numbered(4), "labels": np.zeros(4)}, r"labels are float64\[4\]"),
        ({"x": numbered(4), "labels": np.array([1, 2, 3, 1])}, "labels go from 1 to 3, the model has 3 classes"),
        ({"x": numbered(4), "labels": np.array([0, -1, 1, 1])}, "labels go from -1 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_told_in_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], said: str):
    with pytest.raises(DataError, match=said) as caught:
        read_npz(classifier(), save(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_a_batch_that_is_fixed_wants_whole_runs(tmp_path: Path):
    with pytest.raises(DataError, match=r"{'x': 10}; expected the same multiple of 4 for each"):
        read_npz(classifier(4, 3, free=()), save(tmp_path, x=numbered(10)))


def test_inputs_of_different_numbers_of_samples_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"{'ids': 2, 'mask': 3}"):
        read_npz(sequences(), save(tmp_path, ids=np.ones((2, 4), int), mask=np.ones((3, 4), int)))


def test_labels_of_an_output_that_is_no_classifiers_are_refused(tmp_path: Path):
    model = Model("net", nn.Identity(), {"input": torch.ones(2, 3, 4)}, ("y",), {"input": {0: "batch"}})
    x = np.ones((4, 3, 4), np.float32)
    with pytest.raises(DataError, match=r"the output 'y' is \[2, 3, 4\]; .* for an output \[samples, classes\]"):
        read_npz(model, save(tmp_path, input=x, labels=np.zeros(4, int)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float):
    x = numbered(4)
    x[3, 1] = bad
    with pytest.raises(DataError, match="'x' holds 1 values that are NaN or infinite"):
        read_npz(classifier(), save(tmp_path, x=x))


def test_samples_on_which_the_model_fails_are_refused(tmp_path: Path):
    model = Model(
        "net", nn.Embedding(4, 2), {"input": torch.ones(2, 3, dtype=torch.int64)}, ("y",), {"input": {0: "n"}}
    )
    with pytest.raises(DataError, match="net does not run on samples"):
        read_npz(model, save(tmp_path, input=np.full((4, 3), 9)))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "batch.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(classifier(), tmp_path / "batch.npz")


def test_objects_are_refused_for_they_are_pickles(tmp_path: Path):
    with pytest.raises(DataError, match="without objects"):
        read_npz(classifier(), save(tmp_path, x=np.array([{}], object)))


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path):
    path = save(tmp_path, x=numbered(400))
    path.write_bytes(path.read_bytes()[:-50])
    assert not zipfile.is_zipfile(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(classifier(), path)
