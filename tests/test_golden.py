"""Golden samples come back as they were written, damage has a name, and a difference is what the formula says."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgepress.runtime.errors import ArtifactError, UnsupportedError
from edgepress.runtime.golden import Case, SelfTest, difference, first_inputs, read_golden, replay, write_golden

DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int64", "bool")


def written(path: Path) -> Path:
    write_golden(path, [Case({"x": np.arange(600, dtype=np.float32)}, {"y": np.ones((2, 3), np.int8)})])
    return path


@given(
    st.lists(
        st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, min_side=0))),
        min_size=1,
        max_size=3,
    )
)
def test_cases_come_back_bit_by_bit(tmp_path: Path, values: list[np.ndarray]):
    cases = [Case({"a/b": v, "file": v}, {"logits": v, "..": v}) for v in values]
    write_golden(tmp_path / "golden.npz", cases)
    read = read_golden(tmp_path / "golden.npz")
    assert len(read) == len(cases)
    for ours, theirs in zip(read, cases, strict=True):
        for mine, given_ in ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs)):
            assert mine.keys() == given_.keys()
            for name in mine:
                assert mine[name].dtype == given_[name].dtype
                assert mine[name].shape == given_[name].shape
                assert mine[name].tobytes() == given_[name].tobytes()


def test_more_than_nine_cases_keep_their_order(tmp_path: Path):
    write_golden(tmp_path / "g.npz", [Case({"x": np.array(i)}, {"y": np.array(i)}) for i in range(12)])
    assert [int(case.outputs["y"]) for case in read_golden(tmp_path / "g.npz")] == list(range(12))


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_archive_is_an_artifact_error_or_reads_as_before(tmp_path: Path, data: st.DataObject):
    path = written(tmp_path / "golden.npz")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1), "from") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), "at")] ^= data.draw(st.integers(1, 255), "bits")
    path.write_bytes(content)
    with contextlib.suppress(ArtifactError):
        assert all(case.outputs for case in read_golden(path))


@pytest.mark.parametrize("key", ["0", "0/out", "zero/out/y", "0/outside/y", "0/in/x"])
def test_an_archive_with_other_keys_is_refused(tmp_path: Path, key: str):
    np.savez(tmp_path / "g.npz", **{key: np.ones(3)})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArtifactError):
        read_golden(tmp_path / "g.npz")


def test_a_file_that_is_missing_or_is_something_else_is_refused(tmp_path: Path):
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello", encoding="utf-8")
    for name in ("array.npz", "empty.npz", "text.npz", "missing.npz", "."):
        with pytest.raises(ArtifactError):
            read_golden(tmp_path / name)


def test_a_pickle_is_neither_written_nor_loaded(tmp_path: Path):
    words = np.array(["a", "b"], dtype=object)
    with pytest.raises(UnsupportedError, match="'words'"):
        write_golden(tmp_path / "g.npz", [Case({"words": words}, {"y": np.ones(1)})])
    assert not (tmp_path / "g.npz").exists()
    member = io.BytesIO()
    np.save(member, words, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as archive:
        archive.writestr("0/out/y.npy", member.getvalue())
    with pytest.raises(ArtifactError, match="pickle"):
        read_golden(tmp_path / "g.npz")


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=8))
def test_the_difference_is_the_formula(pairs: list[tuple[float, float]]):
    y, g = (np.array(side) for side in zip(*pairs, strict=True))
    largest = max(abs(b) for _, b in pairs)
    expected = max(abs(a - b) for a, b in pairs)
    expected = expected / max(largest, 1e-12) if expected else 0.0
    assert difference(y, g) == pytest.approx(expected)


def test_what_is_not_finite_must_be_the_same_and_the_rest_is_compared():
    inf, nan = float("inf"), float("nan")
    masked = np.array([1.0, -inf, nan])
    assert difference(masked, masked) == 0
    assert difference(np.array([1.5, -inf, nan]), masked) == 0.5
    assert difference(np.array([1.0, inf, nan]), masked) == inf
    assert difference(np.array([1.0, 0.0, nan]), masked) == inf
    assert difference(np.array([1.0, -inf, 0.0]), masked) == inf
    assert difference(np.array([nan, -inf, nan]), masked) == inf


def test_shapes_dtypes_and_extremes():
    assert difference(np.ones((2, 1)), np.ones((1, 2))) == float("inf")
    assert difference(np.ones(0), np.ones(0)) == 0
    assert difference(np.array(3.0), np.array(2.0)) == 0.5
    assert difference(np.array([True]), np.array([False])) == 1e12
    assert difference(np.array([-128], np.int8), np.array([127], np.int8)) == pytest.approx(255 / 127)
    assert difference(np.array([1.7e308]), np.array([-1.7e308])) == float("inf")


def test_a_replay_counts_its_cases_and_reports_the_worst_output():
    one = np.ones(2)
    cases = [Case({"x": one}, {"y": one}), Case({"x": one * 2}, {"y": one * 4})]
    seen = replay(lambda inputs: {"y": inputs["x"], "extra": one}, cases, tolerance=0.5)
    assert seen == SelfTest(2, 0.5, 0.5)
    assert seen.passed
    assert not replay(lambda inputs: {"y": inputs["x"]}, cases, tolerance=0.49).passed


def test_a_replay_of_nothing_or_with_nan_never_passes():
    assert not replay(lambda inputs: inputs, [], tolerance=1.0).passed
    case = Case({"x": np.ones(2)}, {"y": np.ones(2)})
    assert not replay(lambda _: {"y": np.full(2, np.nan)}, [case], tolerance=1.0).passed
    assert not SelfTest(1, float("nan"), 1.0).passed


def test_an_output_that_the_model_does_not_give_is_named():
    case = Case({"x": np.ones(2)}, {"y": np.ones(2)})
    with pytest.raises(ArtifactError, match="no output \\['y'\\]"):
        replay(lambda inputs: {"z": inputs["x"]}, [case], tolerance=1.0)


def test_the_first_inputs_are_those_of_the_first_case_and_an_empty_file_is_told(tmp_path):
    write_golden(tmp_path / "g.npz", [Case({"x": np.array(i)}, {"y": np.array(i)}) for i in (7, 8)])
    assert int(first_inputs(tmp_path / "g.npz")["x"]) == 7
    write_golden(tmp_path / "none.npz", [])
    with pytest.raises(ArtifactError, match=r"none\.npz holds no golden samples; export the model again"):
        first_inputs(tmp_path / "none.npz")
