import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from edgepress.devices import find_device, measure
from edgepress.devices.emulated import BOARDS, emulation_folder, emulator, open_emulated
from edgepress.devices.setup import clean, set_up
from edgepress.runtime.errors import DeviceError, UnknownName

from .boards import fetching, none_left, running_board
from .commands import edgepress


@pytest.fixture(scope="module")
def pi5(tmp_path_factory):
    """An arm64 Python with ONNX Runtime, in a cache folder of its own: 15 s, 50 MB of packages."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    try:
        with fetching():
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


def test_int8_products_are_those_of_numpy_on_both_boards(pi5, tmp_path):
    """`-cpu max` computes some of them wrongly; the processors of the boards do not."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (16, 96)).astype(np.uint8), rng.integers(-128, 128, (96, 32)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [16, 96])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [16, 32])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "model.onnx"))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "y.npy", a.astype(np.int32) @ b.astype(np.int32))
    code = (
        "import sys, numpy as np, onnxruntime as ort; f = sys.argv[1]; s = ort.InferenceSession(f + '/model.onnx');"
        "print((s.run(None, {'a': np.load(f + '/a.npy')})[0] == np.load(f + '/y.npy')).all())"
    )
    for board in BOARDS:
        assert open_emulated(f"emu://{board}").run(["-c", code, str(tmp_path)], 300) == "True\n"


def test_a_board_over_ssh_may_be_of_another_processor_with_packages_of_its_own(pi5, make_artifact, tmp_path):
    """The python3 on the board's PATH is the arm64 one: what ssh reaches is a Pi, but for its speed."""
    root, shims = emulation_folder() / "arm64", tmp_path / "shims"
    shims.mkdir()
    run = shlex.join(emulator("pi5", root))
    (shims / "python3").write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{root / "wheels"}" exec {run} "$@"\n')
    (shims / "python3").chmod(0o755)
    with running_board(tmp_path, environment={"PATH": f"{shims}:/usr/bin:/bin"}) as board:
        address = board.address("arm")
        said = edgepress("devices", "setup", address, "--own-packages")
        assert said.code == 0, said.err
        record = json.loads((board.home / "arm" / "setup.json").read_text())
        assert record["python"] == str(shims / "python3")
        said = edgepress("report", make_artifact("base").path, "--on", address, "--runs", 1, "--threads", 1, "--json")
    assert said.code == 0, said.err
    assert said.json["device"]["arch"] == "aarch64"
    (row,) = said.json["rows"]
    assert row["selftest"]["cases"] == 1
    assert row["selftest"]["difference"] <= row["selftest"]["tolerance"]
    assert row["timing"]["machine"]["arch"] == "aarch64"
    assert "judged-here" not in json.dumps(said.json)


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
        with pytest.raises(DeviceError, match=r"there is no qemu for arm64 programs here; .*install qemu-user-static"):
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
