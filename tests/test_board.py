import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgepress.devices import ssh
from edgepress.devices.board import open_board
from edgepress.runtime.errors import DeviceError

from .boards import none_left, processes, running_board


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        board.ready()
        yield board


@pytest.fixture
def link(board):
    link = open_board(board.address())
    yield link
    link.close()


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "digits-int8"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "artifact.json").write_text("{}")
    return folder


def test_a_folder_arrives_under_its_name_with_all_that_is_in_it(link, model):
    there = Path(link.put(model))
    assert there.name == "digits-int8"
    names = sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())
    assert names == ["deep/artifact.json", "model.onnx"]
    assert (there / "model.onnx").read_bytes() == (model / "model.onnx").read_bytes()


def test_a_single_file_arrives_too(link, model):
    there = Path(link.put(model / "model.onnx"))
    assert there.name == "model.onnx"
    assert there.read_bytes() == (model / "model.onnx").read_bytes()


def test_what_is_there_is_not_sent_again_and_what_has_changed_is(board, model):
    with board.wired() as wire:
        link = open_board(board.address(port=wire.port))
        try:
            first = link.put(model)
            before = wire.carried
            assert link.put(model) == first
            assert wire.carried - before < 100_000
            (model / "deep" / "artifact.json").write_text("[]")
            assert link.put(model) != first
            assert wire.carried - before > 3_000_000
        finally:
            link.close()


def test_the_devices_python_runs_with_this_runtime_in_its_own_process(link, board):
    code = "import os, sys, edgepress.runtime.bench as b; print(os.getpid(), sys.executable, b.__file__)"
    pid, python, bench = link.run(["-c", code], 60).split()
    assert int(pid) != os.getpid()
    assert python == str(board.home / "ready" / "venv" / "bin" / "python")
    assert bench.startswith(str(board.home / "ready" / "files"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"python": '])
def test_a_setup_that_names_no_python_is_told_what_makes_it_anew(board, text):
    address = board.address("other")
    (board.ready("other") / "setup.json").write_text(text, encoding="utf-8")
    with pytest.raises(DeviceError) as refused:
        open_board(address)
    seen = f"{board.home / 'other'}/setup.json on 127.0.0.1 names no Python"
    assert str(refused.value) == f"{seen}; set it up anew: edgepress devices setup {address}"
    shutil.rmtree(board.home / "other")


def test_arguments_arrive_as_they_are(link):
    odd = ["two words", "it's", '"', "$HOME", "`id`", "a\nb", "!x", "*", ""]
    assert json.loads(link.run(["-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *odd], 60)) == odd


def test_the_last_line_of_a_failure_is_told_with_the_device(link):
    code = "import sys; print('first', file=sys.stderr); sys.exit('the reason')"
    with pytest.raises(DeviceError, match=r"^127\.0\.0\.1: the reason$"):
        link.run(["-c", code], 60)


def test_a_program_that_the_system_killed_is_told_from_a_failed_one(link):
    with pytest.raises(DeviceError, match=r"killed by signal 9 on 127\.0\.0\.1; is the memory enough"):
        link.run(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], 60)


def test_a_program_that_does_not_end_is_ended_on_the_device(link):
    with pytest.raises(DeviceError, match=r"no answer from 127\.0\.0\.1 in 1 s; the program was ended there"):
        link.run(["-c", "import time; mark = 'hangs forever'; time.sleep(600)"], 1)
    assert none_left("hangs forever")


def test_one_that_does_not_heed_the_first_signal_is_ended_too(link):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); mark = 'heeds not'; time.sleep(600)"
    with pytest.raises(DeviceError, match="no answer"):
        link.run(["-c", code], 1)
    assert none_left("heeds not")


def test_a_link_that_is_cut_ends_the_program_on_the_device(board):
    with board.wired() as wire:
        link = open_board(board.address(port=wire.port))
        threading.Timer(1.5, wire.cut).start()
        with pytest.raises(DeviceError, match=r"the link to 127\.0\.0\.1 was lost|nothing listens for ssh"):
            link.run(["-c", "import time; mark = 'cut while it ran'; time.sleep(600)"], 600)
        link.close()
        assert none_left("cut while it ran")


def test_a_link_that_falls_silent_ends_the_program_on_the_device(board, monkeypatch):
    """A cable that is pulled says nothing, but the breath stops: here because the ssh that carries it is stopped."""
    monkeypatch.setattr(ssh, "BREATH_S", 0.5)
    monkeypatch.setattr(ssh, "_CONTACT", ssh._CONTACT.replace(f"timeout {ssh.SILENCE_S}", "timeout 2"))
    link, told = open_board(board.address()), []

    def work() -> None:
        with pytest.raises(DeviceError) as lost:
            link.run(["-c", "import time; mark = 'silent since'; time.sleep(600)"], 600)
        told.append(str(lost.value))

    thread = threading.Thread(target=work)
    thread.start()
    on_the_device = "venv/bin/python -P -c import time; mark = 'silent since"
    deadline = time.monotonic() + 60
    while not processes(on_the_device):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    link.shell.master.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 30
    while any("ssh" not in line for line in processes(on_the_device)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [line for line in processes(on_the_device) if "ssh" not in line]
    link.shell.master.kill()
    thread.join(30)
    link.close()
    assert left == []
    assert "was lost" in told[0]


def test_a_link_that_is_cut_while_a_file_travels_leaves_no_part_of_it(board, model):
    files = board.home / "ready" / "files"
    with board.wired() as wire:
        link = open_board(board.address(port=wire.port))
        before = {path.name for path in files.iterdir()}
        wire.cut_after = wire.carried + 1_000_000
        with pytest.raises(DeviceError, match=r"was lost|nothing listens for ssh"):
            link.put(model)
        link.close()
    assert none_left(".part-")
    assert {path.name for path in files.iterdir()} == before


def test_the_next_run_finds_the_device_free_after_a_cut(board):
    with board.wired() as wire:
        link = open_board(board.address(port=wire.port))
        wire.cut()
        link.close()
    open_board(board.address()).close()


def test_a_slow_link_is_slow_and_no_failure(board, tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(os.urandom(150_000))
    with board.wired(bytes_per_second=200_000) as wire:
        link = open_board(board.address(port=wire.port))
        try:
            assert Path(link.put(file)).read_bytes() == file.read_bytes()
        finally:
            link.close()


def test_a_full_disk_is_told_and_nothing_half_stays(tmp_path, model):
    full = tmp_path / "sd" / "home" / "small"
    full.mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=2m t "{full}" && exec "$0" "$@"'
    rootless = [] if os.geteuid() == 0 else ["--map-root-user"]
    keys = tmp_path / "keys"
    keys.mkdir()
    within = ["unshare", "--mount", *rootless, "sh", "-c", f"mkdir -p {full} && {mount}"]
    with running_board(keys, within=within) as board:
        address = f"ssh://127.0.0.1:{board.port}{full}"
        prepare = f'cd {full}; touch .edgepress; echo \'{{"python": "python3"}}\' > setup.json'
        subprocess.run(["ssh", "-p", str(board.port), "127.0.0.1", prepare], check=True)
        link = open_board(address)
        try:
            with pytest.raises(DeviceError, match=r"no space is left on 127\.0\.0\.1 .*name another folder: ssh://"):
                link.put(model)
            left = link.shell.sh("find files -name '.part*'; find . -name '*.onnx'")
            assert left == ""
        finally:
            link.close()


def test_two_runs_at_once_are_refused_and_the_first_one_goes_on(link, board):
    with pytest.raises(DeviceError, match=r"another run is using 127\.0\.0\.1 .*two at once disturb each other"):
        open_board(board.address())
    assert link.run(["-c", "print(1)"], 60) == "1\n"


def test_a_closed_link_leaves_nothing_behind_here_or_there(board):
    link = open_board(board.address())
    sockets = link.shell.sockets
    assert sockets.exists()
    assert oct(sockets.stat().st_mode & 0o777) == "0o700"
    link.close()
    assert not sockets.exists()
    assert none_left(sockets)
    assert none_left(board.home)


def test_ctrl_c_ends_the_program_on_the_device(board):
    code = "import time; mark = 'until ctrl c'; time.sleep(600)"
    parent = (
        "from edgepress.devices.board import open_board\n"
        f"link = open_board({board.address()!r})\ntry: link.run(['-c', {code!r}], 600)\nfinally: link.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not any("venv/bin/python" in line for line in processes("until ctrl c")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert none_left("until ctrl c")
    open_board(board.address()).close()


def test_a_run_that_was_killed_frees_the_device(board):
    parent = (
        f"from edgepress.devices.board import open_board\nopen_board({board.address()!r})\nprint('open', flush=True)"
    )
    parent += "\nimport time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert none_left(board.home)
    open_board(board.address()).close()
