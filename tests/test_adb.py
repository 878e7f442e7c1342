"""The real adb client against a small adbd, whose shell is this machine's, in a folder of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.devices import find_device, measure
from edgepress.devices.adb import FOLDER, open_adb, read_address
from edgepress.devices.report import Report, cells, where
from edgepress.devices.setup import clean
from edgepress.runtime.artifact import GOLDEN, Artifact, Port, describe, write_manifest
from edgepress.runtime.errors import DeviceError, UnsupportedError, UsageError
from edgepress.runtime.golden import Case, write_golden
from edgepress.runtime.timing import from_json

from .adbd import Adbd, adb, adb_server, running_adbd
from .boards import none_left, processes
from .test_litert_bench import SAID
from .tflite_check import Graph, build, ones

STAND_IN = Path(__file__).with_name("stand_in_for_onnxruntime_perf_test.py")


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    with adb_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture
def phone(tmp_path):
    with running_adbd(tmp_path / "phone") as phone:
        yield phone


@pytest.fixture
def model(tmp_path) -> Artifact:
    """`y = x + x` with a golden sample, as an export leaves it."""
    folder = tmp_path / "twice"
    folder.mkdir()
    build(folder / "model.tflite", Graph((1, 3), "run"))
    write_golden(folder / GOLDEN, [Case({"x": ones(1, 3)}, {"y": 2 * ones(1, 3)})])
    ports = (Port("x", "float32", (1, 3)),), (Port("y", "float32", (1, 3)),)
    files = (describe(folder / "model.tflite", "model"), describe(folder / GOLDEN, "golden"))
    artifact = Artifact(folder, "tflite", files, *ports, tolerance=1e-5)
    write_manifest(artifact)
    return artifact


def tool(folder: Path, script: str, name: str = "benchmark_model") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    return path


@pytest.fixture
def benchmark(tmp_path) -> Path:
    """A program that says what LiteRT's says, where it is given a file that is there."""
    check = '[ -s "${1#--graph=}" ] || { echo "ERROR: Failed to load model"; exit 1; }'
    return tool(tmp_path, f"{check}\ncat <<'END' >&2\n{SAID}END")


@pytest.fixture
def perf_test(tmp_path) -> Path:
    """A program that speaks as ONNX Runtime's tool does, and runs the file with ONNX Runtime; it is not the tool."""
    path = tmp_path / "stand_in_for_onnxruntime_perf_test"
    path.write_text(f"#!{sys.executable}\n{STAND_IN.read_text(encoding='utf-8')}", encoding="utf-8")
    return path


def address(phone: Adbd, *benchmarks: Path) -> str:
    return f"adb://{phone.serial}?{'&'.join(f'benchmark={path}' for path in benchmarks)}"


def refusal(link, *arguments: str, timeout: float = 60) -> str:
    with pytest.raises(DeviceError) as refused:
        link.run(["-m", "edgepress.runtime.bench", *arguments], timeout)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_small_adbd_gives_back_what_it_was_sent(phone, tmp_path):
    (tmp_path / "sent").write_bytes(os.urandom(200_000))
    adb("-s", phone.serial, "push", str(tmp_path / "sent"), "/data/local/tmp/sent")
    adb("-s", phone.serial, "pull", "/data/local/tmp/sent", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sent").read_bytes()
    assert adb("-s", phone.serial, "shell", "echo $((1 + 1)); false") == "2\n"


def test_a_phone_tells_what_it_is(phone, benchmark):
    device = find_device(address(phone, benchmark))
    assert (device.name, device.cpu, device.arch) == (phone.serial, "Tensor G3", "aarch64")
    assert device.description == "Android 14 on Google Pixel 8"
    assert (device.formats, device.units, device.activation) == (("tflite",), ("cpu",), "int8")
    assert device.ram_mb is not None
    assert device.ram_mb > 100
    assert not device.reduce_range


def test_a_model_is_sent_timed_and_told_with_its_doubts(phone, benchmark, model):
    device = replace(find_device(address(phone, benchmark)), threads=2)
    (row,) = measure([model], device, runs=20)
    assert row.timing is not None
    assert row.timing.p50 == pytest.approx(42.3948)
    assert row.timing.machine.system == "Android 14 on Google Pixel 8"
    assert (row.timing.threads, row.timing.shapes) == (2, {"x": (1, 3)})
    assert row.alone is not None
    assert (row.alone.load_ms, row.alone.cold_start_ms, row.alone.peak_memory) == (207.799, None, 31.5 * 2**20)
    assert row.selftest is None
    doubts = {doubt.code: doubt.text for doubt in row.doubts}
    assert doubts["not-replayed"] == (
        f"the golden samples are not replayed on {phone.serial}: its benchmark gives no outputs; see --on local"
    )
    assert {"averages", "invented-inputs"} <= set(doubts)
    assert (cells(row, row).p50, cells(row, row).p99) == ("42.4 ms", "—")
    assert "at least 10 averages each" in where(Report("twice", device, (row,)))
    assert names(phone.folder) == ["artifact.json", "benchmark_model", GOLDEN, "model.tflite"]


def test_two_models_are_timed_in_turn_in_one_run(phone, benchmark, tmp_path):
    link = open_adb(address(phone, benchmark))
    paths = [link.put(build(tmp_path / f"{name}.tflite", Graph((1, 3)))) for name in "ab"]
    a, b = from_json(link.run(["-m", "edgepress.runtime.bench", *paths, "--runs", "2"], 60))
    assert (a.name, b.name, a.run == b.run, len(a.rounds)) == ("a", "b", True, 2)


def test_an_onnx_model_has_every_run_timed_at_the_shapes_of_its_golden_sample(phone, perf_test, make_artifact):
    device = find_device(address(phone, perf_test))
    assert device.formats == ("onnx",)
    (row,) = measure([make_artifact("base", batch=2)], device, runs=4)
    assert row.timing is not None
    assert len(row.timing.samples) >= 4
    assert not row.timing.averaged
    assert (row.timing.shapes, row.timing.batch) == ({"x": (2, 64)}, 2)
    assert row.alone is not None
    assert row.alone.load_ms is not None
    assert row.alone.peak_memory is not None
    assert row.alone.peak_memory > 10_000_000
    doubts = {doubt.code: doubt.text for doubt in row.doubts}
    assert doubts["invented-inputs"] == ("onnxruntime_perf_test invents the inputs, and fixes the free axes (x[2, 64])")
    assert "averages" not in doubts
    assert names(phone.folder) == ["artifact.json", GOLDEN, "model.onnx", perf_test.name]  # and no file of results


def test_both_tools_may_be_named_and_the_formats_of_a_model_go_in_turn(
    phone, benchmark, perf_test, model, make_artifact
):
    device = find_device(address(phone, benchmark, perf_test))
    assert device.formats == ("tflite", "onnx")
    one, other = measure([model, make_artifact("base")], device, runs=2)
    assert one.timing is not None
    assert other.timing is not None
    assert one.timing.run == other.timing.run
    assert (one.timing.averaged, other.timing.averaged) == (True, False)


def test_an_onnx_file_of_somebody_else_is_timed_with_free_axes_of_1(phone, perf_test, linear):
    link = open_adb(address(phone, perf_test))
    (timing,) = from_json(link.run(["-m", "edgepress.runtime.bench", link.put(linear), "--runs", "1"], 60))
    assert (timing.name, timing.shapes) == ("linear", {"x": (1, 3)})


def test_a_tool_that_ends_with_minus_1_was_not_killed_and_is_told_by_what_it_said(phone, tmp_path, linear):
    said = "Load model from model.onnx failed:Protobuf parsing failed."
    link = open_adb(address(phone, tool(tmp_path, f"echo '{said}'; exit 255", "onnxruntime_perf_test")))
    assert refusal(link, link.put(linear)) == f"{phone.serial}: {said}"


def test_the_library_beside_a_tool_goes_with_it_and_is_found_there(phone, tmp_path, linear):
    script = 'cat "$LD_LIBRARY_PATH/libonnxruntime.so"; exit 1'
    path = tool(tmp_path, script, "onnxruntime_perf_test")
    (tmp_path / "libonnxruntime.so").write_text("the library")
    (tmp_path / "libother.so").write_text("another")
    link = open_adb(address(phone, path))
    assert refusal(link, link.put(linear)) == f"{phone.serial}: the library"
    assert names(phone.folder) == ["libonnxruntime.so", "linear.onnx", "onnxruntime_perf_test"]


def test_a_library_that_is_missing_there_is_told_with_what_to_do(phone, tmp_path, linear):
    """Android's linker says so, and ends the program by a signal or not, as its version does."""
    says = 'CANNOT LINK EXECUTABLE "./x": library "libonnxruntime.so" not found: needed by main executable'
    for end in ("exit 1", "kill -ABRT $$"):
        path = tool(tmp_path, f"echo '{says}'; {end}", "onnxruntime_perf_test")
        link = open_adb(address(phone, path))
        told = refusal(link, link.put(linear))
        assert told == f"{path} needs libonnxruntime.so; put that of the same build beside it"


def test_what_is_there_is_not_sent_again_and_what_has_changed_is(phone, benchmark, model):
    first = open_adb(address(phone, benchmark)).put(model.path)
    received = phone.received
    assert first.startswith(f"{FOLDER}/files/")
    assert Path(phone.here(first), "model.tflite").read_bytes() == model.model.read_bytes()
    assert open_adb(address(phone, benchmark)).put(model.path) == first
    assert phone.received == received
    (model.path / "more").write_text("more")
    assert open_adb(address(phone, benchmark)).put(model.path) != first


def test_a_path_with_odd_letters_arrives_and_runs(phone, benchmark, tmp_path):
    folder = tmp_path / "it's a $HOME"
    folder.mkdir()
    link = open_adb(address(phone, benchmark))
    path = link.put(build(folder / "a b'$x.tflite", Graph((1, 3))))
    (timing,) = from_json(link.run(["-m", "edgepress.runtime.bench", path, "--runs", "1"], 60))
    assert timing.name == "a b'$x"


def test_a_model_that_the_tool_does_not_run_is_told_by_its_first_error(phone, tmp_path, model):
    said = "echo 'ERROR: Node number 57 (BATCH_MATMUL) failed to prepare.'; echo 'ERROR: Benchmarking failed.'; exit 1"
    link = open_adb(address(phone, tool(tmp_path, said)))
    told = refusal(link, link.put(model.path))
    assert told == f"{phone.serial}: Node number 57 (BATCH_MATMUL) failed to prepare."


def test_a_tool_for_another_processor_is_told_with_the_one_to_take(phone, tmp_path, model):
    """Android's own shell says so; the one of this machine takes such a file for a script."""
    path = tool(tmp_path, 'echo "/system/bin/sh: $0: not executable: 64-bit ELF file"; exit 126')
    link = open_adb(address(phone, path))
    told = refusal(link, link.put(model.path))
    assert told == (
        f"{path} is not for the processor of {phone.serial} (arm64-v8a); take LiteRT's benchmark_model for Android on "
        "arm64-v8a"
    )


def test_a_tool_that_is_killed_is_told_with_the_signal(phone, tmp_path, model):
    link = open_adb(address(phone, tool(tmp_path, "kill -9 $$")))
    seen = f"the benchmark was killed by signal 9 on {phone.serial}; is the memory"
    assert seen in refusal(link, link.put(model.path))


def test_what_a_tool_says_of_its_own_devices_is_not_taken_for_the_phone(phone, tmp_path, model):
    link = open_adb(address(phone, tool(tmp_path, "echo 'ERROR: no devices found for OpenCL'; exit 1")))
    assert refusal(link, link.put(model.path)) == f"{phone.serial}: no devices found for OpenCL"


def test_an_answer_that_is_not_understood_is_told(phone, tmp_path, model):
    link = open_adb(address(phone, tool(tmp_path, "echo hello")))
    assert "the benchmark's answer is not understood (it ends with 'hello')" in refusal(link, link.put(model.path))


def test_a_tool_that_does_not_end_is_ended_there(phone, tmp_path, model):
    link = open_adb(address(phone, tool(tmp_path, f"exec tail -f {tmp_path}/benchmark_model")))
    told = refusal(link, link.put(model.path), timeout=1)
    assert told == f"no answer from {phone.serial} in 1 s; the program was ended there"
    assert none_left(f"tail -f {tmp_path}")
    assert not (phone.folder / "busy").exists()


def test_a_second_run_at_the_same_time_is_refused_and_the_first_goes_on(phone, tmp_path, model, benchmark):
    slow = tmp_path / "slow"
    slow.mkdir()
    link = open_adb(address(phone, tool(slow, f"exec tail -f {slow}/benchmark_model")))
    path = link.put(model.path)
    seen: list[str] = []
    first = threading.Thread(target=lambda: seen.append(refusal(link, path, timeout=4)))
    first.start()
    while not processes(f"tail -f {slow}"):
        time.sleep(0.02)
    second = open_adb(address(phone, benchmark))
    assert "another run is using" in refusal(second, second.put(model.path))
    assert processes(f"tail -f {slow}")
    first.join()
    assert "the program was ended there" in seen[0]


def test_ctrl_c_ends_what_runs_on_the_phone(phone, tmp_path, model):
    path = tool(tmp_path, f"exec tail -f {tmp_path}/benchmark_model")
    code = (
        "import sys; from pathlib import Path; from edgepress.devices.adb import open_adb\n"
        "link = open_adb(sys.argv[1])\n"
        "link.run(['-m', 'edgepress.runtime.bench', link.put(Path(sys.argv[2]))], 60)"
    )
    command = [sys.executable, "-c", code, address(phone, path), str(model.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        while not [line for line in processes(f"tail -f {tmp_path}") if "import sys" not in line]:
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert none_left(f"tail -f {tmp_path}")
    assert not (phone.folder / "busy").exists()


def test_a_phone_that_vanishes_in_the_middle_is_told(phone, tmp_path, model):
    link = open_adb(address(phone, tool(tmp_path, f"sleep 5 & echo $! > {tmp_path}/number; wait")))
    path = link.put(model.path)

    def cut() -> None:
        while not (tmp_path / "number").exists():
            time.sleep(0.02)
        phone.cut()

    threading.Thread(target=cut).start()
    assert f"the link to {phone.serial} was lost" in refusal(link, path)


def test_a_phone_that_vanishes_while_a_file_is_sent_is_told_and_the_next_one_finds_nothing_half(tmp_path, benchmark):
    large = tmp_path / "large.tflite"
    large.write_bytes(os.urandom(1_000_000))
    with running_adbd(tmp_path / "phone") as phone:
        phone.cut_after = 300_000
        with pytest.raises(DeviceError, match=r"the link to .* was lost|is offline|there is no device"):
            open_adb(address(phone, benchmark)).put(large)
        assert not [path for path in (phone.folder / "files").iterdir() if not path.name.startswith(".part-")]


def test_a_full_phone_is_told_and_keeps_nothing_half(phone, tmp_path, benchmark):
    large = tmp_path / "large.tflite"
    large.write_bytes(os.urandom(300_000))
    phone.space = 100_000
    with pytest.raises(DeviceError, match=rf"no space is left on {phone.serial} for {FOLDER}; free some there"):
        open_adb(address(phone, benchmark)).put(large)
    assert list((phone.folder / "files").iterdir()) == []


def test_a_phone_that_is_not_there_is_told(benchmark):
    with pytest.raises(DeviceError, match=r"there is no device 0A041F; see: adb devices"):
        find_device(f"adb://0A041F?benchmark={benchmark}")


def test_a_phone_that_has_not_let_us_in_is_told(tmp_path, benchmark):
    says = pytest.raises(DeviceError, match=r"has not let this machine in; unlock its screen and accept")
    with running_adbd(tmp_path / "phone", "unauthorized") as phone, says:
        find_device(address(phone, benchmark))


def test_a_phone_that_says_nothing_is_told(tmp_path, benchmark):
    says = pytest.raises(DeviceError, match=r"is offline; plug it in again, or: adb -s 127\.0\.0\.1:\d+ reconnect")
    with running_adbd(tmp_path / "phone", "silent") as phone, says:
        find_device(address(phone, benchmark))


def test_a_machine_without_adb_is_told_what_installs_it(benchmark, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="there is no adb here; on Debian and Ubuntu: sudo apt-get install adb"):
        find_device(f"adb://0A041F?benchmark={benchmark}")


def test_the_benchmark_is_named_by_the_address(tmp_path):
    lite, ort = Path("a b/benchmark_model"), Path("c/onnxruntime_perf_test")
    assert read_address("adb://adb-0A._adb-tls-connect._tcp").benchmarks == {}
    assert read_address(f"adb://10.0.0.7:5555?benchmark={lite}").benchmarks == {"tflite": lite}
    assert read_address(f"adb://0A?benchmark={ort}&benchmark={lite}").benchmarks == {"tflite": lite, "onnx": ort}
    says = r"names no benchmark; name LiteRT's benchmark_model \(tflite\) or ONNX .* for Android: adb://SERIAL\?"
    with pytest.raises(UsageError, match=says):
        open_adb("adb://0A041F")
    with pytest.raises(UsageError, match=r"gone_benchmark_model is no file; expected LiteRT's benchmark_model for"):
        open_adb(f"adb://0A041F?benchmark={tmp_path / 'gone_benchmark_model'}")
    with pytest.raises(UsageError, match=r"song is no benchmark that edgepress knows; expected LiteRT's"):
        open_adb(f"adb://0A041F?benchmark={tmp_path / 'song'}")


@pytest.mark.parametrize("wrong", ["adb://", "adb://-s", "adb://a b", "adb://a?tool=b", "adb://a;ls"])
def test_what_is_no_address_is_refused_with_what_one_looks_like(wrong):
    with pytest.raises(UsageError, match=r"is no address of an Android device; expected adb://SERIAL\?benchmark=path"):
        read_address(wrong)


def test_another_program_and_another_format_are_refused(phone, benchmark, make_artifact):
    link = open_adb(address(phone, benchmark))
    with pytest.raises(DeviceError, match=r"does not run -m edgepress\.runtime\.selftest; it runs: about, bench"):
        link.run(["-m", "edgepress.runtime.selftest", "x"], 10)
    assert json.loads(link.run(["-m", "edgepress.runtime.about"], 10))["formats"] == ["tflite"]
    with pytest.raises(UnsupportedError, match="does not run the format 'onnx'; it runs: tflite"):
        measure([make_artifact("base")], find_device(address(phone, benchmark)))


def test_cleaning_removes_the_folder_and_nothing_else(phone, benchmark, model):
    open_adb(address(phone, benchmark)).put(model.path)
    (phone.root / "tmp" / "song").write_text("la")
    clean(f"adb://{phone.serial}")
    assert [path.name for path in (phone.root / "tmp").iterdir()] == ["song"]
