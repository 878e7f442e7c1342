import errno
import os
import pty
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from edgepress.compress.cli import cli
from edgepress.compress.terminal import fault
from edgepress.runtime.errors import DataError

from .commands import EDGEPRESS, edgepress

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


def in_terminal(*arguments: object, **environment: str) -> str:
    """What a terminal of 80 columns receives, stdout and stderr alike."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    env = kept | {"COLUMNS": "80", "TERM": "xterm-256color"} | environment
    command = [str(word) for word in (EDGEPRESS, *arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        received = b""
        while chunk := read(ours):
            received += chunk
    os.close(ours)
    assert process.returncode in (0, 1)
    return received.decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


def test_a_terminal_shows_what_is_being_done_and_the_verdict_in_colour(artifact):
    text = in_terminal("report", artifact, "--on", "pi5", "--budget", "size<10B")
    assert "judging linear-fp32" in text
    assert "\x1b[31mover the budget" in text


def test_no_color_means_no_colour(artifact):
    text = in_terminal("report", artifact, "--on", "pi5", "--budget", "size<10B", NO_COLOR="1")
    assert "over the budget" in text
    assert not COLOUR.search(text)


def test_a_dumb_terminal_gets_plain_lines(artifact):
    text = in_terminal("report", artifact, "--on", "pi5", "--budget", "size<10B", TERM="dumb")
    assert "\x1b" not in text
    assert text.startswith("judging linear-fp32\r\n")
    assert "over the budget" in text


def test_a_terminal_without_our_dashes_shows_question_marks_in_their_place():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    run = subprocess.run([EDGEPRESS, "devices"], env=environment, capture_output=True, check=True)
    assert b"pi5" in run.stdout
    assert run.stderr == b""


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "--json"], ["--help"]])
def test_a_reader_that_went_away_is_no_error(arguments):
    ours, theirs = os.pipe()
    os.close(ours)
    run = subprocess.run([EDGEPRESS, *arguments], stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert run.returncode == 141
    assert run.stderr == b""


def test_a_closed_stdout_is_no_error():
    run = subprocess.run(["sh", "-c", '"$0" recipes >&-', EDGEPRESS], capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")


def endless() -> None:
    endless()


def raising(error: BaseException) -> Callable[[], None]:
    def callback() -> None:
        raise error

    return callback


@pytest.mark.parametrize(
    ("callback", "code", "line"),
    [
        (raising(KeyboardInterrupt()), 130, "interrupted"),
        (raising(DataError("there is no x; check the path")), 2, "there is no x; check the path"),
        (raising(MemoryError()), 2, "the memory is not enough; close other programs, or take a machine with more"),
        (raising(OSError(errno.ENOSPC, "No space left on device", "out/x")), 2,
         "No space left on device: out/x; free space or name another place"),
        (raising(PermissionError(errno.EACCES, "Permission denied", "out/x")), 2,
         "Permission denied: out/x; check the path and its rights"),
        (raising(ZeroDivisionError("a\nb")), 2,
         "internal error, please report it: ZeroDivisionError: a; edgepress --debug shows the traceback"),
        (endless, 2, "internal error, please report it: RecursionError: maximum recursion depth exceeded"),
    ],
)  # fmt: skip
def test_whatever_ends_a_command_is_one_line_and_a_traceback_only_with_debug(monkeypatch, callback, code, line):
    monkeypatch.setitem(cli.commands, "break", click.Command("break", callback=callback))
    said = edgepress("break")
    assert said.code == code
    assert said.out == ""
    assert said.complaint.startswith(line)
    said = edgepress("--debug", "break")
    assert said.code == code
    assert ("Traceback (most recent call last):" in said.err) == (code != 130)


def test_an_error_of_the_system_without_a_file_is_told_too():
    assert fault(OSError(errno.ENOSPC, "No space left on device")) == (
        "No space left on device: while writing; free space or name another place"
    )


@contextmanager
def small_files(kilobytes: int) -> Iterator[None]:
    """While this lasts, no file may grow larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """While this lasts, `folder` is a disk of this size; who may not mount one gets `small_files`."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        with small_files(kilobytes):
            yield
        return
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("command", ["compress", "export"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(perceptron_task, tmp_path, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 48):  # the model has 71 kB
        (disk / "notes.txt").write_text("mine", encoding="utf-8")
        said = edgepress(command, perceptron_task, "--out", disk / "new")
        assert said.code == 2
        assert "; free space or name another place" in said.complaint
        assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "notes.txt"]
        assert (disk / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_where_the_disk_is_full_an_artifact_that_was_to_be_replaced_stays(perceptron_task, artifact):
    before = {path: path.read_bytes() for path in artifact.parent.rglob("*") if path.is_file()}
    with small_files(48):
        said = edgepress("export", perceptron_task, "--out", artifact, "--force")
    assert said.complaint.startswith("File too large: ")
    assert {path: path.read_bytes() for path in artifact.parent.rglob("*") if path.is_file()} == before


def test_saved_outputs_are_whole_or_not_there(artifact, tmp_path):
    with small_files(0):
        said = edgepress("run", artifact, "--golden", "--save", tmp_path / "y.npz")
    assert said.complaint.endswith("; free space or name another place")
    assert not list(tmp_path.glob("*y.npz*"))
