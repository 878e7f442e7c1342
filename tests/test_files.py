"""A folder or file is there whole or not at all, and nothing that exists is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.runtime.errors import ArtifactError, DataError, UsageError
from edgepress.runtime.files import new_folder, read_text, refuse_existing, require_folder, write_text

DEAD = 2**22 + 1  # above Linux's and macOS's largest process number


def artifact_like(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "artifact.json").write_text(text, encoding="utf-8")
    return path


def left_of_a_killed_run(path: Path, role: str, text: str, pid: int = DEAD) -> Path:
    return artifact_like(path.with_name(f".{path.name}.edgepress-tmp-{role}-{pid}"), text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_the_block_ends_and_not_before(tmp_path: Path):
    path = tmp_path / "deep" / "model"
    with new_folder(path) as folder:
        (folder / "file").write_bytes(b"1")
        assert not path.exists()
    assert names(path) == ["file"]
    assert names(path.parent) == ["model"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, problem: type[BaseException]):
    with pytest.raises(problem), new_folder(tmp_path / "model") as folder:  # noqa: PT012
        (folder / "file").write_bytes(b"1")
        raise problem
    assert names(tmp_path) == []


def test_an_existing_folder_is_refused_before_any_work_is_done(tmp_path: Path):
    path = artifact_like(tmp_path / "model", "old")
    with pytest.raises(UsageError, match=r"exists already.*--force"), new_folder(path):
        pytest.fail("the block ran")
    assert (path / "artifact.json").read_text() == "old"


def test_force_replaces_a_folder_and_keeps_it_until_the_new_one_is_whole(tmp_path: Path):
    path = artifact_like(tmp_path / "model", "old")
    with new_folder(path, force=True) as folder:
        (folder / "artifact.json").write_text("new", encoding="utf-8")
        assert (path / "artifact.json").read_text() == "old"
    assert (path / "artifact.json").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_a_forced_block_that_fails_leaves_the_old_folder(tmp_path: Path):
    path = artifact_like(tmp_path / "model", "old")
    with pytest.raises(ValueError, match="half way"), new_folder(path, force=True):
        raise ValueError("half way")
    assert (path / "artifact.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_force_never_deletes_a_folder_that_is_something_else(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no artifact\.json"), new_folder(home, force=True):
        pytest.fail("the block ran")
    assert names(home) == ["thesis.txt"]


def test_force_takes_an_empty_folder(tmp_path: Path):
    (tmp_path / "model").mkdir()
    with new_folder(tmp_path / "model", force=True) as folder:
        (folder / "file").write_bytes(b"1")
    assert names(tmp_path / "model") == ["file"]


def test_a_file_or_a_link_is_never_replaced_by_a_folder(tmp_path: Path):
    file, link, target = tmp_path / "file", tmp_path / "link", artifact_like(tmp_path / "target", "kept")
    file.write_bytes(b"1")
    link.symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (file, link, tmp_path / "dangling"):
        with pytest.raises(UsageError, match="a file or a link"), new_folder(path, force=True):
            pytest.fail("the block ran")
        with pytest.raises(UsageError, match="exists already"):
            refuse_existing(path, force=False)
    assert (target / "artifact.json").read_text() == "kept"


@pytest.mark.parametrize("place", [".", "/", "..", "out/.."])
def test_a_place_is_not_the_name_of_a_new_folder(place: str):
    with pytest.raises(UsageError, match="not a name"), new_folder(Path(place), force=True):
        pytest.fail("the block ran")


def test_a_folder_that_somebody_else_writes_meanwhile_is_not_lost(tmp_path: Path):
    path = tmp_path / "model"
    with pytest.raises(UsageError, match="exists already"), new_folder(path):
        artifact_like(path, "theirs")
    assert (path / "artifact.json").read_text() == "theirs"
    assert names(tmp_path) == ["model"]


def test_a_parent_that_is_a_file_is_one_line_and_not_a_traceback(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(UsageError, match="cannot be written"), new_folder(tmp_path / "file" / "model"):
        pytest.fail("the block ran")


def test_what_a_killed_run_left_is_cleared_up(tmp_path: Path):
    path = tmp_path / "model[1]"  # brackets mean something to glob
    left_of_a_killed_run(path, "new", "half")
    left_of_a_killed_run(path, "new", "half", os.getpid())  # a container gives each run the same number
    with new_folder(path):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["model[1]"]


def test_a_folder_between_its_old_and_its_new_place_is_put_back(tmp_path: Path):
    path = tmp_path / "model"
    left_of_a_killed_run(path, "old", "precious")
    with pytest.raises(UsageError, match="exists already"), new_folder(path):
        pytest.fail("the block ran")
    assert (path / "artifact.json").read_text() == "precious"
    assert names(tmp_path) == ["model"]


def test_what_a_running_process_is_writing_is_left_alone(tmp_path: Path):
    running = left_of_a_killed_run(tmp_path / "model", "new", "half", os.getppid())
    others = left_of_a_killed_run(tmp_path / "another", "new", "half")
    with new_folder(tmp_path / "model"):
        pass
    assert running.exists()
    assert others.exists()


def test_a_process_that_is_killed_in_the_block_loses_nothing(tmp_path: Path):
    path = artifact_like(tmp_path / "model", "old")
    code = (
        "import sys, time; from pathlib import Path; from edgepress.runtime.files import new_folder\n"
        f"with new_folder(Path({str(path)!r}), force=True): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        process.kill()
    assert (path / "artifact.json").read_text() == "old"
    assert len(names(tmp_path)) == 2
    with new_folder(path, force=True) as folder:
        (folder / "artifact.json").write_text("new", encoding="utf-8")
    assert (path / "artifact.json").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_a_text_is_replaced_at_once(tmp_path: Path):
    path = tmp_path / "deep" / "report.md"
    write_text(path, "é")
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half a character: \ud800")
    assert path.read_text(encoding="utf-8") == "new"
    assert names(path.parent) == ["report.md"]


def test_a_folder_is_required_by_name(tmp_path: Path):
    assert require_folder(tmp_path) == tmp_path
    with pytest.raises(ArtifactError, match="does not exist"):
        require_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(ArtifactError, match="is a file"):
        require_folder(tmp_path / "file")


def test_what_cannot_be_read_of_a_file_is_told_with_its_name(tmp_path: Path):
    def damaged(text: str) -> str:
        raise DataError("this is no report")

    path = tmp_path / "x.json"
    with pytest.raises(DataError, match=r"x\.json cannot be read \(No such file or directory\); expected a report"):
        read_text(path, str, "expected a report")
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"x\.json: 'utf-8' codec can't decode"):
        read_text(path, str, "")
    path.write_text("{}", encoding="utf-8")
    assert read_text(path, str, "") == "{}"
    with pytest.raises(DataError, match=r"x\.json: this is no report"):
        read_text(path, damaged, "")
