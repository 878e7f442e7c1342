import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from edgepress.devices.device import find_device
from edgepress.devices.fleet import Member, is_fleet, once, over_fleet, read_fleet
from edgepress.devices.measure import measure
from edgepress.devices.report import Report
from edgepress.runtime.errors import UnknownName, UsageError
from edgepress.runtime.session import load

from .boards import none_left, processes, running_board


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        for name in ("kitchen", "cellar", "broken"):
            board.ready(name)
        yield board


def test_a_list_with_commas_or_a_file_is_a_fleet():
    assert is_fleet("ssh://pi@a,local")
    assert is_fleet("fleet.toml")
    assert not is_fleet("ssh://pi@a")
    assert not is_fleet("pi5")


def test_a_list_names_each_device_by_its_address():
    assert read_fleet("ssh://pi@a, emu://pi5,host") == (
        Member("pi@a", "ssh://pi@a"),
        Member("emu://pi5", "emu://pi5"),
        Member("host", "host"),
    )


def test_a_file_gives_names_and_threads(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text('[kitchen]\naddress = "ssh://pi@10.0.0.7"\nthreads = 2\n\n[here]\naddress = "local"\n')
    assert read_fleet(str(file)) == (Member("kitchen", "ssh://pi@10.0.0.7", 2), Member("here", "local"))


def test_a_phone_has_its_benchmark_beside_the_file_and_is_called_by_its_serial(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text('[phone]\naddress = "adb://0A041F"\nbenchmark = "tools/benchmark_model"\n')
    address = f"adb://0A041F?benchmark={tmp_path / 'tools' / 'benchmark_model'}"
    assert read_fleet(str(file)) == (Member("phone", address),)
    assert [member.name for member in read_fleet(f"{address},local")] == ["0A041F", "local"]
    file.write_text('[phone]\naddress = "adb://0A041F"\nbenchmark = ["benchmark_model", "onnxruntime_perf_test"]\n')
    both = f"benchmark={tmp_path / 'benchmark_model'}&benchmark={tmp_path / 'onnxruntime_perf_test'}"
    assert read_fleet(str(file)) == (Member("phone", f"adb://0A041F?{both}"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "cannot be read as a fleet .*; expected a table for each device"),
        ('a = "ssh://b"', r"a needs an address, as in: \[a\] address"),
        ("[a]\nthreads = 1", "a needs an address"),
        ('[a]\naddress = "local"\ncolour = 1', "a has the unknown key 'colour'; known: address, benchmark, threads"),
        ('[a]\naddress = "local"\nthreads = 0', "a has threads = 0; expected a whole number from 1 on"),
        ('[a]\naddress = "local"\nthreads = true', "a has threads = True"),
        (
            '[a]\naddress = "local"\nbenchmark = "b"',
            "a has benchmark = 'b'; expected a file, for an address adb://SERIAL",
        ),
        ('[a]\naddress = "adb://b"\nbenchmark = 1', "a has benchmark = 1; expected a file"),
        ('[a]\naddress = "adb://b"\nbenchmark = [1]', r"a has benchmark = \[1\]; expected a file"),
        ('[a]\naddress = "adb://b"\nbenchmark = []', r"a has benchmark = \[\]; expected a file"),
        ('[a]\naddress = "local"\n[b]\naddress = "local"', "local stands twice"),
        ("", "names no device"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_told(tmp_path, text, says):
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_fleet(str(tmp_path / "fleet.toml"))


def test_a_fleet_that_is_not_there_and_a_name_that_leads_nowhere_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.toml cannot be read as a fleet"):
        read_fleet(str(tmp_path / "gone.toml"))
    with pytest.raises(UnknownName, match="unknown device 'pi6'"):
        read_fleet("local,pi6")
    with pytest.raises(UsageError, match="local stands twice in 'local,local'"):
        read_fleet("local,local")


def test_each_device_has_a_report_and_one_that_fails_costs_its_own(board, make_artifact):
    (board.home / "broken" / "venv" / "bin" / "python").unlink()
    members = [Member(name, board.address(name)) for name in ("kitchen", "broken", "cellar")]
    members.append(Member("here", "local", 1))
    told, artifact = [], make_artifact("base")

    def measured(device, tell):
        rows = measure([artifact], device, runs=3, on_progress=tell)
        return Report("base", device, rows)

    reports = over_fleet(members, measured, told.append)
    assert [report.device.name for report in reports] == ["kitchen", "broken", "cellar", "here"]
    assert [report.failure.partition(";")[0] for report in reports] == ["", reports[1].failure, "", ""]
    assert not reports[1].fits
    assert "127.0.0.1: timeout: failed to run command" in reports[1].failure
    for report in (reports[0], reports[2], reports[3]):
        (row,) = report.rows
        assert row.device == report.device.name
        assert row.timing is not None
        assert row.selftest is not None
        assert row.selftest.passed
    assert len({report.rows[0].timing.run for report in reports if report.rows and report.rows[0].timing}) == 3
    assert reports[3].rows[0].timing is not None
    assert reports[3].rows[0].timing.threads == 1
    assert {text.partition(":")[0] for text in told} == {"kitchen", "broken", "cellar", "here"}
    assert "broken: failed" in told


def test_one_that_vanishes_in_the_middle_costs_its_own_report(board, make_artifact):
    with board.wired() as wire:
        artifact = make_artifact("base")
        members = [Member("far", board.address("kitchen", wire.port)), Member("near", board.address("cellar"))]

        def measured(device, tell):
            def cutting(text):
                if device.name == "far" and text.startswith("timing"):
                    threading.Timer(0.3, wire.cut).start()
                tell(text)

            return Report("base", device, measure([artifact], device, runs=3000, on_progress=cutting))

        far, near = over_fleet(members, measured, lambda text: None)
    assert "the link to 127.0.0.1 was lost" in far.failure
    assert near.rows[0].timing is not None
    assert none_left(board.home)


def test_the_score_is_taken_once_for_all(make_artifact):
    asked = []

    def score(model):
        asked.append(model.artifact.name)
        return {"norm": float(np.abs(model(x=np.ones((1, 64), np.float32))["y"]).max())}

    judge = once(score)
    assert judge is not None
    models = [load(make_artifact(name).path) for name in ("base", "small")]
    assert [judge(model) == judge(model) for model in models] == [True, True]
    assert asked == ["base", "small"]
    assert once(None) is None


def test_a_score_over_a_fleet_is_from_here_and_says_so(board, make_artifact):
    device = replace(find_device(board.address("kitchen")), name="kitchen")
    (row,) = measure([make_artifact("base")], device, runs=3, score=lambda model: {"one": 1.0})
    assert row.score == {"one": 1.0}
    assert "score from this machine's engine, not from kitchen" in [doubt.text for doubt in row.doubts]


def test_ctrl_c_ends_what_runs_on_every_device(board):
    parent = (
        "from edgepress.devices.fleet import Member, over_fleet\nfrom edgepress.devices.links import connect\n"
        "def work(device, tell):\n    link = connect(device.link)\n"
        "    try: link.run(['-c', \"import time; mark = 'all over the fleet'; time.sleep(600)\"], 600)\n"
        "    finally: link.close()\n"
        f"over_fleet([Member('a', {board.address('kitchen')!r}), "
        f"Member('b', {board.address('cellar')!r})], work, print)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while sum("-P -c import time" in line and "timeout" not in line for line in processes("all over the fleet")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert none_left("all over the fleet")
