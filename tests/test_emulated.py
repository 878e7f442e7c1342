import json
from pathlib import Path

import pytest

from edgepress.devices import find_device, measure
from edgepress.devices.emulated import BOARDS, emulation_folder, open_emulated
from edgepress.devices.setup import clean, set_up
from edgepress.runtime.errors import DeviceError, UnknownName

from .boards import none_left


@pytest.fixture(scope="module")
def pi5(tmp_path_factory):
    """An arm64 Python with ONNX Runtime, in a cache folder of its own: 15 s, 50 MB of packages."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    try:
        set_up("emu://pi5", tell=print)
        yield "emu://pi5"
    finally:
        patch.undo()


def test_it_is_an_arm64_python_with_the_engine_of_this_machine(pi5):
    told = json.loads(open_emulated(pi5).run(["-m", "edgepress.runtime.about"], 300))
    assert told["machine"]["arch"] == "aarch64"
    assert told["formats"] == ["onnx"]


def test_golden_samples_are_replayed_on_arm64_and_nothing_is_timed(pi5, make_artifact):
    artifact = make_artifact("base")
    (row,) = measure([artifact], find_device(pi5))
    assert row.device == "pi5 (emulated)"
    assert row.selftest is not None
    assert row.selftest.passed
    assert row.selftest.cases == 1
    assert (row.timing, row.alone) == (None, None)
    assert [doubt.code for doubt in row.doubts] == ["emulated"]
    assert row.doubts[0].text.startswith("emulated, not a measurement")


def test_the_bench_itself_runs_there(pi5, make_artifact):
    link = open_emulated(pi5)
    said = link.run(["-m", "edgepress.runtime.bench", link.put(make_artifact("base").path), "--runs", "1"], 300)
    assert json.loads(said)[0]["machine"]["arch"] == "aarch64"


def test_int8_products_are_those_of_the_board(pi5, make_artifact):
    """`-cpu max` computes some wrongly; the boards' own processors do not."""
    code = "import numpy as np; a = np.arange(-128, 128, dtype=np.int8).astype(np.int32); print(int(a @ a))"
    for board in BOARDS:
        assert open_emulated(f"emu://{board}").run(["-c", code], 300) == "1398144\n"


def test_a_failure_and_a_time_that_is_up_are_told(pi5):
    link = open_emulated(pi5)
    with pytest.raises(DeviceError, match=r"^the emulated pi5: the reason$"):
        link.run(["-c", "raise SystemExit('the reason')"], 300)
    with pytest.raises(DeviceError, match=r"killed by signal 9 on the emulated pi5"):
        link.run(["-c", "import os; os.kill(os.getpid(), 9)"], 300)
    with pytest.raises(DeviceError, match=r"no answer from the emulated pi5 in 2 s; it was ended"):
        link.run(["-c", "import time; mark = 'emulated and slow'; time.sleep(600)"], 2)
    assert none_left("emulated and slow")


def test_one_that_is_not_set_up_is_told_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DeviceError, match="do it once: edgepress devices setup emu://pi4"):
        find_device("emu://pi4")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_qemu_is_told_what_installs_it(pi5, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for tried in (lambda: open_emulated(pi5), lambda: set_up(pi5, tell=print)):
        with pytest.raises(DeviceError, match="there is no qemu for arm64 programs here; .*install qemu-user-static"):
            tried()


def test_another_board_is_refused():
    with pytest.raises(UnknownName, match="unknown emulated board 'pi9'; known: pi4, pi5"):
        open_emulated("emu://pi9")


def test_clean_removes_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    emulation_folder().mkdir(parents=True)
    clean("emu://pi5")
    assert not emulation_folder().exists()
    assert Path(tmp_path).exists()
