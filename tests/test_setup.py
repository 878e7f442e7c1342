import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgepress.devices.board import open_board
from edgepress.devices.setup import _PROBE, clean, set_up
from edgepress.runtime.errors import DeviceError, UnknownName, UsageError

from .boards import fetching, none_left, running_board
from .commands import EDGEPRESS, edgepress


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


def test_a_device_without_network_gets_its_wheels_from_here_and_gives_all_back(board):
    address, folder, told = board.address("offline"), board.home / "offline", []
    with fetching():
        installed = set_up(address, offline=True, tell=told.append)
    assert set(installed) == {"python", "numpy", "onnxruntime"}
    record = json.loads((folder / "setup.json").read_text())
    assert (record["installed"], record["own_packages"]) == (installed, False)
    assert any(text.startswith("sending ") and text.endswith(" MB to 127.0.0.1") for text in told)
    assert not list(folder.rglob("*.whl"))

    (first,) = folder.glob("venv-*")
    assert set_up(address, offline=True, tell=print) == installed  # the wheels that were unpacked are sent again
    (venv,) = folder.glob("venv-*")
    assert venv != first
    link = open_board(address)
    try:
        code = "import onnxruntime, sys; print(onnxruntime.__version__, onnxruntime.__file__)"
        version, file = link.run(["-c", code], 120).split()
    finally:
        link.close()
    assert version == installed["onnxruntime"]
    assert file.startswith(str(venv))

    clean(address)
    assert not folder.exists()
    assert none_left(board.home)


def test_a_device_with_network_installs_by_its_own_pip(board):
    told = []
    with fetching():
        installed = set_up(board.address("online"), tell=told.append)
    assert installed["onnxruntime"]
    assert not any(text.startswith("sending") for text in told)
    clean(board.address("online"))


def test_a_setup_that_fails_leaves_nothing(board, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DeviceError, match=r"no wheels could be fetched here of numpy, onnxruntime==.*on \w+: "):
        set_up(board.address("failing"), offline=True, tell=print)
    assert not (board.home / "failing").exists()


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    full, keys = tmp_path / "full", tmp_path / "keys"
    for folder in (full, keys):
        folder.mkdir()
    within = ["unshare", "--mount", "--map-root-user", "sh", "-c",
              f'mount -t tmpfs -o size=20m t "{full}" && exec "$0" "$@"']  # fmt: skip
    if subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout.strip() == "0":
        within.remove("--map-root-user")
    with running_board(keys, within=within) as board:
        with pytest.raises(DeviceError, match=r"no space is left on 127\.0\.0\.1"):
            set_up(f"ssh://127.0.0.1:{board.port}{full / 'edge'}", offline=True, tell=print)
        command = ["ssh", "-p", str(board.port), "127.0.0.1", f"ls {full}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def content(folder: Path) -> dict[str, bytes]:
    """What makes a setup: all but the files that were sent, and what Python compiles beside them."""
    parts = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in parts}
    return {name: data for name, data in named.items() if not name.startswith("files/")}


def test_a_setup_that_fails_leaves_an_earlier_one_as_it_was(tmp_path, make_artifact, monkeypatch):
    """Neither the board's pip nor the one here finds a package."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with running_board(tmp_path, environment={"PIP_NO_INDEX": "1"}) as board:
        told, folder, address = [], board.ready("older"), board.address("older")
        before = content(folder)
        with pytest.raises(DeviceError, match="no wheels could be fetched here of numpy, ai-edge-litert"):
            set_up(address, engine="tflite", tell=told.append)
        assert any(text.startswith("its pip could not (127.0.0.1: ERROR: No matching") for text in told)
        assert content(folder) == before
        said = edgepress("report", make_artifact("base").path, "--on", address, "--runs", 3, "--json")
        assert said.code == 0, said.err
        assert said.json["rows"][0]["selftest"]["cases"] == 1


def until_one_is_made(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob("venv-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("older", [True, False])
def test_a_link_that_is_cut_during_a_setup_leaves_an_earlier_one_or_nothing(board, older):
    folder = board.ready("cut") if older else board.home / "cut-new"
    before = content(folder)
    with board.wired() as wire:
        threading.Thread(target=lambda: (until_one_is_made(folder), wire.cut()), daemon=True).start()
        with pytest.raises(DeviceError, match=r"the link to 127\.0\.0\.1 was lost|nothing listens for ssh"):
            set_up(board.address(folder.name, port=wire.port), tell=print)
    assert none_left(board.home)
    assert content(folder) == before
    assert folder.exists() == older


@pytest.mark.parametrize("older", [True, False])
def test_ctrl_c_during_a_setup_leaves_an_earlier_one_or_nothing(board, older):
    folder = board.ready("stopped") if older else board.home / "stopped-new"
    before = content(folder)
    command = [str(EDGEPRESS), "devices", "setup", board.address(folder.name)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until_one_is_made(folder)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert none_left(board.home)
    assert content(folder) == before
    assert folder.exists() == older


def bare_python(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python3"


def test_a_devices_own_packages_serve_and_nothing_is_installed(tmp_path, make_artifact):
    own = Path(sys.executable).parent
    with running_board(tmp_path, environment={"PATH": f"{own}:/usr/bin:/bin"}) as board:
        address = board.address("own")
        said = edgepress("devices", "setup", address, "--own-packages")
        assert said.code == 0, said.err
        assert said.out.startswith(f"ready: {address} (python 3.")
        record = json.loads((board.home / "own" / "setup.json").read_text())
        assert (record["python"], record["own_packages"]) == (str(own / "python3"), True)
        assert sorted(path.name for path in (board.home / "own").iterdir()) == [".edgepress", "files", "setup.json"]
        said = edgepress("report", make_artifact("base").path, "--on", address, "--runs", 3, "--json")
        assert said.code == 0, said.err
        assert said.json["rows"][0]["selftest"]["cases"] == 1
        clean(address)


def test_another_version_than_here_is_told(tmp_path):
    """The device's engine calls itself 1.0, as a distribution of another name: NVIDIA's is onnxruntime-gpu."""
    lent, told = tmp_path / "lent", []
    (lent / "onnxruntime_gpu-1.0.dist-info").mkdir(parents=True)
    (lent / "onnxruntime_gpu-1.0.dist-info" / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.0\n")
    (lent / "onnxruntime_gpu-1.0.dist-info" / "top_level.txt").write_text("onnxruntime\n")
    for name in ("onnxruntime", "numpy", "numpy.libs", "flatbuffers"):
        (found,) = [path for path in map(Path, sys.path) if (path / name).is_dir()]
        (lent / name).symlink_to(found / name)
    python = bare_python(tmp_path / "own")
    (site,) = (tmp_path / "own" / "lib").glob("python3.*/site-packages")
    (site / "lent.pth").write_text(str(lent))
    with running_board(tmp_path, environment={"PATH": f"{python.parent}:/usr/bin:/bin"}) as board:
        installed = set_up(board.address("own"), own_packages=True, tell=told.append)
    assert installed["onnxruntime"] == "1.0"
    assert any("it has onnxruntime==1.0, where this machine has onnxruntime==" in text for text in told)


def test_packages_that_are_not_there_are_told_with_what_installs_them(tmp_path):
    python = bare_python(tmp_path / "bare")
    with running_board(tmp_path, environment={"PATH": f"{python.parent}:/usr/bin:/bin"}) as board:
        with pytest.raises(DeviceError) as refused:
            set_up(board.address("own"), own_packages=True, tell=print)
        assert str(refused.value) == (
            f"{python} on 127.0.0.1 cannot serve (ModuleNotFoundError: No module named 'numpy'); install numpy and "
            "onnxruntime for it there, in Termux: pkg install python-numpy python-onnxruntime"
        )
        assert not (board.home / "own").exists()
        before = content(board.ready("older"))
        with pytest.raises(DeviceError, match="cannot serve"):
            set_up(board.address("older"), own_packages=True, tell=print)
        assert content(board.home / "older") == before


def test_a_python_that_starts_by_a_shim_is_named_itself(tmp_path):
    python = bare_python(tmp_path / "bare")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (shims / "python3").chmod(0o755)
    done = subprocess.run(["sh", "-c", _PROBE], env={"PATH": f"{shims}:/usr/bin:/bin"}, capture_output=True, check=True)
    assert json.loads(done.stdout)["python"] == str(python)


def test_a_board_without_python_is_told_and_gets_no_folder(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for path in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
        if not path.name.startswith(("python", "idle", "pydoc")) and not (tools / path.name).exists():
            (tools / path.name).symlink_to(path)
    with running_board(tmp_path, environment={"PATH": str(tools)}) as board:
        with pytest.raises(DeviceError, match=r"127\.0\.0\.1 has no Python 3; there: sudo apt-get install python3"):
            set_up(board.address("none"), tell=print)
        assert not (board.home / "none").exists()


def test_what_cannot_be_set_up_is_refused():
    with pytest.raises(UnknownName, match=r"unknown engine with wheels 'gguf'; known: onnx, tflite"):
        set_up("ssh://pi@board", engine="gguf", tell=print)
    with pytest.raises(UnknownName, match=r"unknown engine of an emulated board 'tflite'; known: onnx"):
        set_up("emu://pi5", engine="tflite", tell=print)
    with pytest.raises(UsageError, match="'local' needs no setup, or has none"):
        set_up("local", tell=print)
    with pytest.raises(UsageError, match=r"needs no setup; name the benchmark: adb://0A041F\?benchmark=PATH"):
        set_up("adb://0A041F", tell=print)
    with pytest.raises(UsageError, match="'emu://pi5' has no packages of its own; --own-packages goes with ssh://"):
        set_up("emu://pi5", own_packages=True, tell=print)
    with pytest.raises(UsageError, match="'pi5' has nothing to clean"):
        clean("pi5")
    with pytest.raises(UnknownName, match=r"unknown emulated board 'pi9'; known: pi4, pi5"):
        set_up("emu://pi9", tell=print)


def test_a_folder_that_was_never_set_up_is_not_cleaned(board):
    with pytest.raises(DeviceError, match="is not set up"):
        clean(board.address("never"))
