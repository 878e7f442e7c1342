from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, boolean_dtypes, floating_dtypes, integer_dtypes

from edgepress.runtime.arrays import read_arrays
from edgepress.runtime.errors import DataError

letters = st.characters(codec="ascii", categories=("L", "N"))
names = st.text(letters, min_size=1, max_size=8).filter(lambda name: name != "file")  # savez calls its target so
dtypes = boolean_dtypes() | integer_dtypes() | floating_dtypes()


@given(st.dictionaries(names, arrays(dtypes, (2, 3)), min_size=1, max_size=3))
def test_an_npz_gives_its_arrays_by_name(tmp_path, wanted):
    np.savez(tmp_path / "a.npz", **wanted)
    read = read_arrays(tmp_path / "a.npz")
    assert read.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_an_npy_gives_one_array_without_a_name(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    assert read_arrays(tmp_path / "x.npy")[""].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_empty_npz_has_no_arrays(tmp_path):
    np.savez(tmp_path / "none.npz")
    assert read_arrays(tmp_path / "none.npz") == {}


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_a_pickle_is_never_loaded(tmp_path, save):
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, np.array([{}], dtype=object))
    with pytest.raises(DataError, match="without objects"):
        read_arrays(path)


@pytest.mark.parametrize(
    "content", [b"", b"not an array", b"PK\x03\x04 half", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{"]
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz cannot be read as an \.npz or \.npy") as caught:
        read_arrays(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_changed_byte_ends_in_anything_but_arrays_or_a_data_error(tmp_path, place, value):
    path: Path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(50), y=np.ones((3, 3), np.float32))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        read_arrays(path)
    except DataError:
        return


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(tmp_path / name)
