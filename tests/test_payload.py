import io
import tarfile

import pytest

from edgepress.devices.payload import WHOLE, digest, files_of, runtime_files, write_tar
from edgepress.runtime.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"1")
    (tmp_path / "model" / "deep" / "b").write_bytes(b"2")
    return tmp_path / "model"


def test_files_keep_the_names_that_they_have_here(folder):
    assert files_of(folder) == {"model/a": folder / "a", "model/deep/b": folder / "deep" / "b"}
    assert files_of(folder / "a") == {"a": folder / "a"}


def test_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no files; expected an artifact's folder or a file"):
        files_of(tmp_path / "gone")


def test_the_digest_is_that_of_names_and_contents(folder):
    first = digest(files_of(folder))
    assert len(first) == 32
    assert digest(files_of(folder)) == first
    (folder / "a").rename(folder / "c")
    renamed = digest(files_of(folder))
    (folder / "c").write_bytes(b"3")
    assert len({first, renamed, digest(files_of(folder))}) == 3


def test_the_archive_ends_with_the_word_that_it_is_whole(folder):
    stream = io.BytesIO()
    write_tar(files_of(folder), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        assert archive.getnames() == ["model/a", "model/deep/b", WHOLE]
        assert {(member.uid, member.uname, member.mode) for member in archive.getmembers()[:2]} == {(0, "", 0o644)}


def test_the_runtime_travels_alone():
    names = set(runtime_files())
    assert {"edgepress/__init__.py", "edgepress/runtime/bench.py"} <= names
    assert all(name.startswith("edgepress/runtime/") or name == "edgepress/__init__.py" for name in names)
