import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgepress.devices.links import LINKS, Local, connect
from edgepress.runtime.errors import DeviceError, UnknownName


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_local_file_stays_where_it_is(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"model")
    assert Path(Local().put(file)) == file.resolve()


def test_a_program_runs_in_a_fresh_process_of_this_python():
    code = "import os, sys; print(os.getpid(), sys.executable)"
    first, second = (Local().run(["-c", code], 60).split(maxsplit=1) for _ in range(2))
    assert len({first[0], second[0], str(os.getpid())}) == 3
    assert first[1].strip() == sys.executable


def test_the_current_folder_does_not_change_what_is_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert Local().run(["-c", "import json; print(json.dumps(1))"], 60) == "1\n"


def test_the_last_line_of_a_failure_is_what_is_told():
    code = "import sys; print('first', file=sys.stderr); print('the reason', file=sys.stderr); sys.exit(2)"
    with pytest.raises(DeviceError, match=r"^the reason$"):
        Local().run(["-c", code], 60)


def test_a_silent_failure_tells_its_exit_code():
    with pytest.raises(DeviceError, match="exit code 3 and said nothing"):
        Local().run(["-c", "raise SystemExit(3)"], 60)


def test_a_killed_program_is_told_from_a_failed_one():
    with pytest.raises(DeviceError, match="killed by signal 9"):
        Local().run(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], 60)


def test_a_program_that_does_not_end_is_ended(tmp_path):
    file = tmp_path / "pid"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(DeviceError, match="no answer from this machine in 2 s"):
        Local().run(["-c", code], 2)
    assert not alive(int(file.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_leaves_no_process_behind(tmp_path):
    file = tmp_path / "pid"
    child = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"from edgepress.devices.links import Local; Local().run(['-c', {child!r}], 600)"
    # Its own session: the signal reaches the parent alone, so that the parent must end the child.
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert not alive(int(file.read_text()))


def test_an_address_opens_the_link_of_its_scheme():
    assert isinstance(connect("local"), LINKS["local"])  # pyright: ignore[reportArgumentType]


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(UnknownName, match=r"unknown link 'carrier-pigeon'; known: adb, browser, emu, local, ssh"):
        connect("carrier-pigeon://roof")
