"""The matrix: every figure against its definition, every limit broken once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr, softmax

from edgepress.export.parity import Sample, Side, as_dict, compare, hold
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import PortError, UsageError

rows = arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


def side(name: str, run=lambda x: x, precision: str = "float32", history: tuple[Step, ...] = ()) -> Side:
    return Side(name, "onnx", precision, history, lambda inputs: {"logits": run(inputs["x"])})


def sample(kind: str = "golden", seed: int = 0, **more: np.ndarray) -> Sample:
    x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    return Sample(kind, {"x": x} | more)


@given(rows, rows)
def test_cosine_difference_top1_and_kl_are_what_they_are_called(a: np.ndarray, b: np.ndarray) -> None:
    found = compare({"logits": a}, {"logits": b})
    x, y = a.astype(np.float64), b.astype(np.float64)
    for i in range(3):
        norms = np.linalg.norm(x[i]) * np.linalg.norm(y[i])
        if norms > 1e-30:
            assert found.cosines[i] == pytest.approx(x[i] @ y[i] / norms, abs=1e-9)
        assert found.same_top1[i] == (x[i].argmax() == y[i].argmax())
        assert found.kl[i] == pytest.approx(rel_entr(softmax(x[i]), softmax(y[i])).sum(), rel=1e-6, abs=1e-9)
    if np.abs(x).max() > 1e-6:
        assert found.difference == pytest.approx(np.abs(x - y).max() / np.abs(x).max(), rel=1e-6, abs=1e-12)


@given(rows)
def test_an_output_agrees_with_itself(a: np.ndarray) -> None:
    found = compare({"logits": a}, {"logits": a})
    assert found.cosines.min() >= 1 - 1e-6
    assert found.difference == 0
    assert found.kl.max() < 1e-9


@pytest.mark.parametrize("other", [np.ones((3, 5)), np.full((3, 4), np.nan)])
def test_other_shapes_and_what_is_not_finite_on_one_side_are_as_far_apart_as_can_be(other: np.ndarray) -> None:
    found = compare({"logits": np.ones((3, 4))}, {"logits": other})
    assert (found.cosines.min(), found.difference) == (-1, np.inf)
    assert not found.kl.size


def test_infinities_that_both_have_are_the_same() -> None:
    masked = np.array([[1.0, -np.inf, 2.0]])
    assert compare({"y": masked}, {"y": masked}).cosines.min() == pytest.approx(1)


def test_each_side_is_held_against_each_other_one() -> None:
    sides = [side("a"), side("b", lambda x: x * 1.00001), side("c")]
    found = hold(sides, [sample(), sample("zeros", 1)])
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.passed
    assert found.samples == {"golden": 1, "zeros": 1}
    raw = as_dict(found)
    assert raw["passed"] is True
    assert raw["pairs"][0]["limits"] == {"cosine": 0.99999, "worst_cosine": 0.9999, "difference": 1e-3}


def test_a_pair_of_floats_breaks_its_limits_where_a_pair_with_integers_does_not() -> None:
    def off(x: np.ndarray) -> np.ndarray:
        return x + 0.05 * x[:, ::-1]

    floats = hold([side("a"), side("b", off)], [sample()])
    assert not floats.passed
    assert "below 0.99999" in floats.pairs[0].breaches[0]
    assert "above 1e-03" in floats.pairs[0].breaches[-1]
    mixed = hold([side("a"), side("b", off, "int8", (Step("static_int8"),))], [sample()])
    assert mixed.passed
    assert mixed.pairs[0].cosine == floats.pairs[0].cosine


def test_the_mean_is_over_natural_samples_and_the_worst_over_all() -> None:
    def flips_zeros(x: np.ndarray) -> np.ndarray:
        return -x if np.abs(x).max() > 50 else x

    samples = [sample(), sample("data", 1), Sample("extremes", {"x": np.full((3, 4), 99, np.float32)})]
    (pair,) = hold([side("a"), side("b", flips_zeros, "int4", (Step("weight_only"),))], samples).pairs
    assert pair.cosine == pytest.approx(1)
    assert (pair.worst_cosine, pair.worst) == (pytest.approx(-1), 2)
    assert pair.breaches == ("cosine -1.00000 for a sample of 'extremes', below 0.8",)


def test_a_file_that_does_not_take_what_the_other_one_takes_breaks_the_pair() -> None:
    def refuses(x: np.ndarray) -> np.ndarray:
        if len(x) == 1:
            raise PortError("one is too few")
        return x

    one = Sample("batch of 1", {"x": np.ones((1, 4), np.float32)})
    found = hold([side("a"), side("b", refuses)], [sample(), one])
    assert found.pairs[0].breaches == ("b does not take the sample 'batch of 1': one is too few",)
    assert hold([side("a", refuses), side("b", refuses)], [sample(), one]).passed


def test_other_networks_are_compared_and_held_to_nothing() -> None:
    found = hold([side("a"), side("b", lambda x: -x, history=(Step("structured"),))], [sample()])
    assert found.passed
    assert found.pairs[0].limits is None
    assert found.pairs[0].cosine == pytest.approx(-1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="two files at least"):
        hold([side("a")], [sample()])
    with pytest.raises(UsageError, match="a, a; expected different names"):
        hold([side("a"), side("a")], [sample()])
    with pytest.raises(UsageError, match="no samples"):
        hold([side("a"), side("b")], [sample("zeros")])
    other = replace(side("b"), run=lambda inputs: {"y": inputs["x"]})
    with pytest.raises(UsageError, match="a gives logits, b gives y"):
        hold([side("a"), other], [sample()])

    def refuses(x: np.ndarray) -> np.ndarray:
        raise PortError("no")

    with pytest.raises(UsageError, match="take no sample both"):
        hold([side("a", refuses), side("b", refuses)], [sample()])


def test_a_language_models_logits_count_at_each_position_whatever_the_length():
    rng = np.random.default_rng(0)
    short, long = rng.normal(size=(2, 3, 5)), rng.normal(size=(1, 7, 5))
    for logits, count in ((short, 6), (long, 7)):
        found = compare({"logits": logits}, {"logits": logits})
        assert found.same_top1.shape == found.kl.shape == (count,)
