import json

import pytest

from .boards import running_board
from .commands import edgepress


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        board.ready()
        yield board


def test_setup_has_a_help_with_an_example():
    said = edgepress("devices", "setup", "--help")
    assert said.code == 0
    assert "edgepress devices setup ssh://pi@raspberrypi.local" in said.out


def test_without_a_command_the_devices_are_listed():
    assert "pi5" in edgepress("devices").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set"], "unknown command 'set'; known: probe, setup"),
        (["setup", "local"], "'local' needs no setup, or has none; set up ssh://user@host or emu://pi5"),
        (["setup", "ssh://"], "'ssh://' is no address of a device"),
        (["setup", "ssh://a", "--engine", "gguf"], "unknown engine with wheels 'gguf'; known: onnx, tflite"),
        (["setup", "ssh://a", "--clean", "--offline"], "--clean removes; it goes with no other option."),
        (["setup", "ssh://a", "--clean", "--own-packages"], "--clean removes; it goes with no other option."),
        (
            ["setup", "ssh://a", "--own-packages", "--offline"],
            "--own-packages installs nothing; it goes without --offl",
        ),
        (["setup", "emu://pi5", "--own-packages"], "'emu://pi5' has no packages of its own; --own-packages goes with"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message):
    said = edgepress("devices", *arguments)
    assert said.code == 2
    assert message in said.complaint


def test_a_report_on_one_board_is_a_report_as_on_this_machine(board, make_artifact, tmp_path):
    pair = (make_artifact("base").path, make_artifact("small").path)
    said = edgepress("report", *pair, "--on", board.address(), "--runs", 3, "--threads", 1, "--out", tmp_path)
    assert said.code == 0, said.err
    assert "sending base, small" in said.err
    raw = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert raw["device"]["link"] == board.address()
    assert [row["selftest"]["cases"] for row in raw["rows"]] == [1, 1]
    assert len({row["timing"]["run"] for row in raw["rows"]}) == 1
    assert "judged-here" not in json.dumps(raw)
    assert [row["placement"] for row in raw["rows"]] == [{"cpu": 1.0}, {"cpu": 1.0}]


def test_a_board_is_probed_and_runs_without_a_pause(board, make_artifact, tmp_path):
    said = edgepress(
        "devices", "probe", board.address(), "--threads", 1, "--seconds", 0.5, "--out", tmp_path / "p.json"
    )
    assert said.code == 0, said.err
    said = edgepress("report", make_artifact("base").path, "--on", board.address(), "--runs", 3, "--threads", "best",
                     "--sustain", "0.5s", "--repeat", 2, "--json")  # fmt: skip
    assert said.code == 0, said.err
    (row,) = said.json["rows"]
    assert row["timing"]["sustained"]["runs"] > 0
    assert len(row["repeats"]) == 2


def test_a_report_on_one_board_that_fails_is_one_line(board, make_artifact):
    said = edgepress("report", make_artifact("base").path, "--on", board.address("nowhere"))
    assert said.code == 2
    assert said.complaint.startswith("127.0.0.1 is not set up")


def test_a_report_on_several_has_all_of_them_and_fails_with_1_where_one_does(board, make_artifact, tmp_path):
    on = f"{board.address('nowhere')},{board.address()},pi5"
    said = edgepress("report", make_artifact("base").path, "--on", on, "--runs", 3, "--out", tmp_path)
    assert said.code == 1
    assert "failed 127.0.0.1 is not set up" in " ".join(said.out.split())
    raw = json.loads((tmp_path / "reports.json").read_text(encoding="utf-8"))
    assert [bool(one["failure"]) for one in raw["reports"]] == [True, False, False]
    assert [len(one["rows"]) for one in raw["reports"]] == [0, 1, 1]
    names = [str(tmp_path / f"reports.{form}") for form in ("html", "md", "json")]
    assert f"written: {', '.join(names)}" in said.out
    page = (tmp_path / "reports.html").read_text(encoding="utf-8")
    assert "<h1>base on 3 devices</h1>" in page
    assert "127.0.0.1 is not set up" in page
    assert raw["reports"][1]["rows"][0]["timing"]


def test_a_fleet_file_names_its_devices_and_as_json_it_is_one_object(board, make_artifact, tmp_path):
    (tmp_path / "fleet.toml").write_text(f'[kitchen]\naddress = "{board.address()}"\nthreads = 1\n')
    said = edgepress("report", make_artifact("base").path, "--on", tmp_path / "fleet.toml", "--runs", 3, "--json")
    assert said.code == 0, said.err
    (report,) = said.json["reports"]
    assert report["device"]["name"] == "kitchen"
    assert report["rows"][0]["timing"]["threads"] == 1


def test_clean_removes_the_folder(board):
    folder = board.ready("old")
    said = edgepress("devices", "setup", board.address("old"), "--clean")
    assert said.code == 0
    assert said.out == f"removed: what edgepress had on {board.address('old')}\n"
    assert not folder.exists()


def test_a_device_is_probed_and_a_latency_there_is_predicted(linear, perceptron_task, tmp_path):
    out = tmp_path / "probe.json"
    said = edgepress("devices", "probe", "--threads", 1, "--seconds", 0.5, "--out", out)
    assert said.code == 0
    assert said.out.startswith(f"written: {out} (")
    said = edgepress("explain", linear, "--predict", out, "--json")
    assert said.code == 0
    assert {"as is", "int8", "int4"} == set(said.json["ms"])
    assert said.json["measured"] > 0
    said = edgepress("explain", perceptron_task, "--predict", out)
    assert said.code == 0
    assert said.out.startswith("perceptron on ")
    assert edgepress("devices", "probe", "--seconds", 0.5, "--out", out).code == 0  # a probe is replaced


def test_report_tries_threads_and_batches_repeats_and_runs_without_a_pause(linear):
    said = edgepress("report", linear, "--runs", 3, "--threads", "best", "--batch", "1,2", "--repeat", 2,
                     "--sustain", "1s", "--json")  # fmt: skip
    assert said.code == 0
    (row,) = said.json["rows"]
    assert said.json["device"]["threads"] in [one["threads"] for one in row["tried"][:-2]]
    assert [one["batch"] for one in row["tried"][-2:]] == [1, 2]
    assert len(row["repeats"]) == 2
    assert row["timing"]["sustained"]["runs"] > 0


def test_a_device_without_an_address_is_not_probed_and_what_is_no_probe_is_not_replaced(tmp_path):
    said = edgepress("devices", "probe", "pi5", "--out", tmp_path / "probe.json")
    assert said.code == 2
    assert said.complaint.startswith("pi5 has no address, so it cannot be probed; name one as ssh://")
    assert not (tmp_path / "probe.json").exists()
    (tmp_path / "theirs").write_text("{}", encoding="utf-8")
    said = edgepress("devices", "probe", "--out", tmp_path / "theirs")
    assert said.complaint == f"{tmp_path / 'theirs'} is no probe of edgepress and would be lost; name another file"
