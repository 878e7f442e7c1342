import json
import subprocess

import pytest

from edgepress.devices.board import open_board
from edgepress.devices.setup import Target, clean, fetch_wheels, read_target, set_up
from edgepress.runtime.errors import DeviceError, UnknownName, UsageError

from .boards import fetching, none_left, running_board

PI = {"python": "/usr/bin/python3", "version": [3, 11], "bits": 64, "arch": "aarch64", "libc": "glibc",
      "libc_version": "2.36"}  # fmt: skip


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


def test_a_device_without_network_gets_its_wheels_from_here_and_gives_all_back(board):
    address, told = board.address("offline"), []
    with fetching():
        installed = set_up(address, offline=True, tell=told.append)
    assert set(installed) == {"python", "numpy", "onnxruntime"}
    record = json.loads((board.home / "offline" / "setup.json").read_text())
    assert record["installed"] == installed
    assert any(text.startswith("sending ") and text.endswith(" MB to 127.0.0.1") for text in told)
    assert not list((board.home / "offline").rglob("*.whl"))

    link = open_board(address)
    try:
        code = "import onnxruntime, sys; print(onnxruntime.__version__, onnxruntime.__file__)"
        version, file = link.run(["-c", code], 120).split()
    finally:
        link.close()
    assert version == installed["onnxruntime"]
    assert file.startswith(str(board.home / "offline" / "venv"))

    clean(address)
    assert not (board.home / "offline").exists()
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


def test_what_a_device_tells_becomes_what_a_wheel_must_fit():
    assert read_target(json.dumps(PI), "pi") == Target("/usr/bin/python3", (3, 11), "aarch64", 36)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {"bits": 32, "arch": "armv7l"},
            r"pi runs a 32-bit system \(armv7l\), for which the engines have no wheels; .*64",
        ),
        ({"bits": 32, "arch": "aarch64"}, "pi runs a 32-bit system"),  # 32-bit Raspberry Pi OS has a 64-bit kernel
        ({"version": [3, 9]}, r"pi has Python 3\.9, edgepress needs 3\.11 or newer; Raspberry Pi OS has it from 12"),
        ({"libc": "", "libc_version": ""}, "pi has no glibc as its C library; the engines' wheels need glibc"),
    ],
)
def test_a_device_that_no_wheel_fits_is_told_why(told, says):
    with pytest.raises(DeviceError, match=says):
        read_target(json.dumps(PI | told), "pi")


def test_a_device_without_python_is_told_what_installs_it():
    with pytest.raises(DeviceError, match=r"pi has no Python 3; there: sudo apt-get install python3 python3-venv"):
        read_target("", "pi")


def test_wheels_fit_the_device_and_not_this_machine(tmp_path):
    with fetching():
        fetch_wheels(Target("", (3, 12), "aarch64", 36), ["numpy"], tmp_path)
    (wheel,) = tmp_path.iterdir()
    assert "cp312" in wheel.name
    assert wheel.name.endswith("aarch64.whl")


def test_what_cannot_be_set_up_is_refused():
    with pytest.raises(UnknownName, match=r"unknown engine with wheels 'gguf'; known: onnx, tflite"):
        set_up("ssh://pi@board", engine="gguf", tell=print)
    with pytest.raises(UnknownName, match=r"unknown engine of an emulated board 'tflite'; known: onnx"):
        set_up("emu://pi5", engine="tflite", tell=print)
    with pytest.raises(UsageError, match="'local' needs no setup, or has none"):
        set_up("local", tell=print)
    with pytest.raises(UsageError, match=r"needs no setup; name the benchmark: adb://0A041F\?benchmark=PATH"):
        set_up("adb://0A041F", tell=print)
    with pytest.raises(UsageError, match="'pi5' has nothing to clean"):
        clean("pi5")
    with pytest.raises(UnknownName, match=r"unknown emulated board 'pi9'; known: pi4, pi5"):
        set_up("emu://pi9", tell=print)


def test_a_folder_that_was_never_set_up_is_not_cleaned(board):
    with pytest.raises(DeviceError, match="is not set up"):
        clean(board.address("never"))
