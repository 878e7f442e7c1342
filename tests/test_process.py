import os
import subprocess
import sys
import threading
import time

import pytest

from edgepress.devices.process import call, end_all, last_line

from .boards import none_left


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_program_tells_its_code_and_both_its_streams():
    done = call(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 60)
    assert (done.code, done.output, done.errors) == (3, "out\n", "err\n")
    assert last_line(done) == "err"
    assert last_line(call(python("raise SystemExit(4)"), 60)) == "the program ended with exit code 4 and said nothing"


def test_stdin_is_empty_unless_it_is_fed():
    read = python("import sys; print(len(sys.stdin.buffer.read()))")
    assert call(read, 60).output == "0\n"
    assert call(read, 60, feed=lambda stream: stream.write(b"x" * 3_000_000) and None).output == "3000000\n"


def test_one_that_ends_before_it_has_read_all_is_no_failure():
    assert call(python("print(1)"), 60, feed=lambda stream: stream.write(b"x" * 3_000_000) and None).output == "1\n"


def test_a_held_stdin_stays_open_until_we_are_gone():
    code = "import select, sys; print(select.select([sys.stdin], [], [], 0.3)[0])"
    assert call(python(code), 60, hold=True).output == "[]\n"


def test_time_that_is_up_ends_the_program():
    with pytest.raises(subprocess.TimeoutExpired):
        call(python("import time; mark = 'too long here'; time.sleep(600)"), 0.5)
    assert none_left("too long here")


def test_no_descriptor_stays_open():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    call(python(""), 60, hold=True)
    call(python(""), 60, feed=lambda stream: None)
    with pytest.raises(FileNotFoundError):
        call(["no-such-program"], 60, hold=True)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_all_can_be_ended_from_another_thread():
    codes: list[int] = []
    code = python("import time; mark = 'ended by another'; time.sleep(600)")
    thread = threading.Thread(target=lambda: codes.append(call(code, 600).code))
    thread.start()
    while not codes:
        end_all()
        time.sleep(0.02)
    thread.join()
    assert codes == [-9]
    assert none_left("ended by another")
