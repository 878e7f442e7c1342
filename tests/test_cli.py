import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.cli import cli
from edgepress.runtime.artifact import check, describe, read_artifact
from edgepress.runtime.golden import Case, read_golden, write_golden

from .commands import EDGEPRESS, SMALL, Said, edgepress
from .tflite_check import Graph, build

COMMANDS = sorted(cli.commands)
GOES_ON = "perceptron-fp32: exported already, by a run that was interrupted"


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of one pass, which pays."""
    path = tmp_path_factory.mktemp("recipes") / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(perceptron_task: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Path]:
    """What `compress` says, and the folder that it wrote; for a Pi 5, which is not timed."""
    out = tmp_path_factory.mktemp("done") / "out"
    return edgepress("compress", perceptron_task, "--recipe", small, "--on", "pi5", "--out", out), out


def test_help_names_every_command_in_a_line_that_is_not_cut():
    said = edgepress("--help")
    assert said.code == 0
    for name in COMMANDS:
        (line,) = (line for line in said.out.splitlines() if line.split()[:1] == [name])
        assert line.endswith(".")
        assert not line.endswith("...")


def test_without_a_command_the_help_is_shown_and_the_usage_is_wrong():
    assert edgepress() == Said(2, edgepress("--help").out, "")


def test_the_version_is_the_installed_one():
    assert edgepress("--version").out.split()[-1] == version("edgepress")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_which_can_be_typed(name):
    said = edgepress(name, "--help")
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    _, _, examples = said.out.partition("Example:\n")
    lines = [shlex.split(line) for line in examples.splitlines() if line.strip()]
    assert ["edgepress", name] in [line[:2] for line in lines]
    for _, command, *arguments in lines:
        cli.commands[command].make_context(command, arguments)  # raises UsageError for what cannot be typed


def test_compress_says_what_it_does_what_it_found_and_where_it_lies(done):
    said, out = done
    assert said.code == 0
    assert said.err.splitlines()[:2] == ["reading the model", "exporting perceptron-fp32 to onnx"]
    for words in ("perceptron, recipe small, on pi5", "ships: perceptron-small", "kept", "1.0000"):
        assert words in said.out, words
    assert said.out.splitlines()[-1] == (
        f"written: {out}/perceptron-small, {out}/report.html, {out}/report.md, {out}/report.json"
    )
    assert (out / "perceptron-small" / "artifact.json").is_file()


def test_compress_as_json_is_the_report_and_a_missed_budget_is_exit_code_1(perceptron_task, tmp_path):
    nothing = tmp_path / "nothing.toml"
    nothing.write_text('[[pass]]\nname = "weight_only"\nlayers = ["embedding"]\n', encoding="utf-8")
    said = edgepress("compress", perceptron_task, "--recipe", nothing, "--on", "pi5", "--out", tmp_path / "out",
                     "--budget", "size<1kB, drop<1%", "--json")  # fmt: skip
    assert said.code == 1
    assert said.err == ""
    assert said.json == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {"schema", "fits", "title", "device", "rows", "budget", "misses", "ships", "idle"} <= said.json.keys()
    assert said.json["fits"] is False
    assert said.json["misses"] == ["size 71 kB, budget < 1 kB"]
    assert said.json["idle"] == ["weight_only"]


def test_an_onnx_file_is_compressed_too_and_a_pass_that_does_not_pay_is_undone(linear, small, tmp_path):
    np.savez(tmp_path / "batch.npz", x=np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    said = edgepress("compress", linear, "--recipe", small, "--data", tmp_path / "batch.npz", "--on", "pi5",
                     "--out", tmp_path / "out")  # fmt: skip
    assert said.code == 0
    assert "ships: linear-fp32" in said.out
    assert "undone: worse size" in " ".join(said.out.split())


def test_export_writes_the_model_as_it_is(perceptron_task, tmp_path):
    said = edgepress("export", perceptron_task, "--out", tmp_path / "p")
    assert said == Said(0, f"written: {tmp_path / 'p'} (71,011 bytes of model)\n",
                        "reading the model\nexporting to onnx\n")  # fmt: skip
    assert read_artifact(tmp_path / "p").history == ()
    again = edgepress("export", perceptron_task, "--out", tmp_path / "p")
    assert again.code == 2
    assert again.complaint == f"{tmp_path / 'p'} exists already; name another place, or replace it with --force"


def test_run_computes_what_the_file_says(artifact, linear, tmp_path):
    x = np.array([[1, 2, 3], [0, 0, 1]], np.float32)
    y = x @ np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for given in (f"x={tmp_path}/x.npy", f"{tmp_path}/x.npy", f"{tmp_path}/x.npz"):
        for path in (artifact, linear):
            said = edgepress("run", path, "--input", given, "--save", tmp_path / "y.npz", "--json")
            assert said.json == {"y": {"dtype": "float32", "shape": [2, 2], "values": y.tolist()}}
            with np.load(tmp_path / "y.npz") as saved:
                assert np.array_equal(saved["y"], y)


def test_run_names_the_classes_where_the_model_ships_labels(artifact, linear, tmp_path):
    assert edgepress("run", artifact, "--golden").out == "y: b 95.3 %, a 4.7 %\n"
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    assert edgepress("run", linear, "--input", tmp_path / "x.npy").out == "y float32[1, 2]: 9, 12\n"


def test_inspect_tells_a_folder_from_a_bare_file(artifact, linear):
    assert {"inputs", "outputs", "files", "operators", "history", "source", "tools"} <= set(
        edgepress("inspect", artifact, "--json").json
    )
    for path in (artifact, linear):
        assert "x float32[batch, 3]" in edgepress("inspect", path).out
    assert "a bare file has no manifest" in edgepress("inspect", linear).out
    assert "unknown" in edgepress("inspect", linear, "--json").json


def test_verify_replays_the_golden_samples(artifact, make_artifact):
    other = make_artifact("other").path
    said = edgepress("verify", artifact, other, "--json")
    assert said.code == 0
    assert [(check["path"], check["passed"], check["cases"]) for check in said.json["replays"]] == [
        (str(artifact), True, 2), (str(other), True, 1),
    ]  # fmt: skip
    assert "hashes as exported, outputs as recorded" in edgepress("verify", artifact).out


def test_a_model_is_exported_to_tflite_and_its_lengths_are_an_option(perceptron_task, tmp_path):
    said = edgepress("export", perceptron_task, "--to", "tflite", "--out", tmp_path / "perceptron")
    assert said.code == 0
    assert edgepress("verify", tmp_path / "perceptron").code == 0
    assert edgepress("run", tmp_path / "perceptron", "--golden", "--json").json["y"]["shape"] == [1, 4]
    said = edgepress("export", perceptron_task, "--to", "tflite", "--lengths", "0", "--out", tmp_path / "other")
    assert (said.code, said.complaint) == (2, "--lengths 0: expected numbers from 1 on with commas between, as 16,64")
    assert not (tmp_path / "other").exists()


def test_a_bare_file_of_either_format_is_inspected_run_reported_and_verified(linear, tmp_path):
    add = build(tmp_path / "add.tflite", Graph((1, 3), free=(-1, 3)))
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    for path, operator in ((linear, "MatMul"), (add, "ADD")):
        assert edgepress("inspect", path, "--json").json["operators"] == {operator: 1}
        assert edgepress("run", path, "--input", f"x={tmp_path / 'x.npy'}", "--json").json["y"]["shape"][0] == 2
        (row,) = edgepress("report", path, "--json").json["rows"]
        assert row["format"] == path.suffix[1:]
        said = edgepress("verify", path)
        assert said.code == 0
        assert "a bare file of which nothing is recorded" in said.out
        assert edgepress("verify", path, "--json").json["replays"][0]["recorded"] is False


def test_verify_fails_with_1_where_the_outputs_are_others(artifact):
    cases = read_golden(artifact / "golden.npz")
    write_golden(artifact / "golden.npz", [Case(case.inputs, {"y": case.outputs["y"] + 1}) for case in cases])
    manifest = json.loads((artifact / "artifact.json").read_text(encoding="utf-8"))
    changed = vars(describe(artifact / "golden.npz", "golden"))
    manifest["files"] = [changed if file["role"] == "golden" else file for file in manifest["files"]]
    (artifact / "artifact.json").write_text(json.dumps(manifest), encoding="utf-8")
    said = edgepress("verify", artifact)
    assert said.code == 1
    assert "OUTPUTS DIFFER" in said.out
    assert edgepress("verify", artifact, "--json").json["passed"] is False


def test_report_measures_what_others_made_beside_our_own(artifact, linear, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3), np.float32))
    said = edgepress("report", linear, artifact, "--runs", 20, "--threads", 1, "--input", tmp_path / "x.npz",
                     "--out", tmp_path / "out")  # fmt: skip
    assert said.code == 0
    assert "linear-fp32" in said.out
    raw = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [row["timing"]["threads"] for row in raw["rows"]] == [1, 1]
    assert raw["rows"][0]["selftest"] is None
    assert raw["rows"][1]["selftest"]["cases"] == 2


def test_report_holds_the_last_one_against_the_budget_and_asks_the_task_for_the_score(done, perceptron_task):
    _, out = done
    given = ("report", out / "perceptron-fp32", out / "perceptron-small", "--on", "pi5", "--task", perceptron_task)
    said = edgepress(*given, "--budget", "drop<0.001%")
    assert said.code == 1
    assert "drop of r2 0.01 points, budget < 0.001 %" in said.out
    said = edgepress(*given, "--budget", "drop<0.1%, size<30kB", "--json")
    assert said.code == 0
    assert said.json["rows"][1]["score"]["r2"] == pytest.approx(0.9999, abs=1e-4)


def test_recipes_devices_and_doctor_as_json_have_the_names_of_the_code():
    assert edgepress("recipes", "--json").json["int8"]["pass"][0] == {"name": "static_int8"}
    assert edgepress("devices", "--json").json["pi5"]["activation"] == "int8"
    assert edgepress("doctor", "--json").json.keys() == {"python", "platform", "executable", "uses"}


def test_debug_shows_the_traceback_of_what_is_one_line_without_it():
    assert edgepress("verify", "nowhere").complaint == "nowhere does not exist; check the path"
    said = edgepress("--debug", "verify", "nowhere")
    assert said.code == 2
    assert said.err.startswith("Traceback (most recent call last):")
    assert said.err.endswith("ArtifactError: nowhere does not exist; check the path\n")


@pytest.fixture
def desk(perceptron_task, linear, artifact, tmp_path, monkeypatch) -> Path:
    """The current folder, with things that are right and things that are wrong."""
    folder = tmp_path / "desk"
    folder.mkdir()
    shutil.copy(perceptron_task, folder / "task.py")
    shutil.copy(linear, folder / "linear.onnx")
    shutil.copytree(artifact, folder / "changed")
    texts = {
        "pass.toml": '[[pass]]\nname = "shrink"\n',
        "setting.toml": '[[pass]]\nname = "weight_only"\nbit = 4\n',
        "syntax.py": "def task():\nreturn 1\n",
        "raises.py": "def task():\n    return 1 / 0\n",
        "imports.py": "import tensorflux\n",
        "returns.py": "def task():\n    return 'a model'\n",
        "damaged.onnx": "not a model",
        "weights.pt": "a pickle",
        "changed/model.onnx": "another model",
        "theirs/report.md": "# Quarterly report",
    }
    (folder / "theirs").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    x = np.ones((4, 3), np.float32)
    np.savez(folder / "nan.npz", x=np.where(np.eye(4, 3) > 0, np.nan, x).astype(np.float32))
    np.savez(folder / "names.npz", z=x)
    np.savez(folder / "shape.npz", x=np.ones((4, 5), np.float32))
    np.savez(folder / "dtype.npz", x=x.astype(np.float64))
    np.savez(folder / "empty.npz", x=x[:0])
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def compressing(*arguments: object, until: str) -> Iterator[subprocess.Popen[str]]:
    """`edgepress compress` in a process group of its own, from the line on stderr that begins with `until`."""
    command = [str(word) for word in (EDGEPRESS, "compress", *arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith(until) for line in process.stderr)
        yield process


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(perceptron_task, small, tmp_path):
    out = tmp_path / "out"
    given = (perceptron_task, "--recipe", small, "--out", out, "--budget", "latency<10s, size<1GB")
    with compressing(*given, until="timing perceptron-fp32 in a process of its own") as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the bench too
        said, complaint = process.communicate()
    assert process.returncode == 130
    assert said == ""
    assert complaint.strip() == "edgepress: interrupted; what is finished is kept, the same command goes on from there"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing keeps running
    assert [path for path in out.iterdir() if not path.name.startswith(".")] == []
    assert not list(out.rglob("*edgepress-tmp*"))
    again = edgepress("compress", *given)
    assert again.code == 0
    assert GOES_ON in again.err.splitlines()
    assert sorted(path.name for path in out.iterdir()) == [
        "perceptron-fp32", "perceptron-small", "report.html", "report.json", "report.md",
    ]  # fmt: skip


def test_a_killed_run_goes_on_where_it_stopped_and_ends_in_the_same_artifact(perceptron_task, small, done, tmp_path):
    (_, whole), out = done, tmp_path / "out"
    given = (perceptron_task, "--recipe", small, "--on", "pi5", "--out", out)
    with compressing(*given, until="exporting 1-weight_only") as process:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path for path in out.iterdir() if not path.name.startswith(".")] == []
    again = edgepress("compress", *given)
    assert again.code == 0
    assert GOES_ON in again.err.splitlines()
    for name in ("perceptron-fp32", "perceptron-small"):
        assert describe(out / name / "model.onnx") == describe(whole / name / "model.onnx")
        check(read_artifact(out / name))
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


# Command lines that cannot be right, and the beginning of what is said about them.
WRONG = [
    ("comprss x.py", f"unknown command 'comprss'; known: {', '.join(COMMANDS)}"),
    ("run", "Missing argument 'ARTIFACT'. See: edgepress run --help"),
    ("recipes --colour", "No such option '--colour'. See: edgepress recipes --help"),
    (
        "run linear.onnx --threads 0",
        "Invalid value for '--threads': 0 is not in the range x>=1. See: ",
    ),
    ("recipes int8", "Got unexpected extra argument (int8) See: edgepress recipes --help"),
    ("compress task.py --recipe int9", "unknown recipe 'int9'; known: "),
    ("compress task.py --recipe no.toml", "there is no recipe file no.toml; known recipes: "),
    ("compress task.py --recipe pass.toml", "unknown pass 'shrink'; known: cluster, distill, dynamic_int8, "),
    ("compress task.py --recipe setting.toml", "has the unknown setting 'bit'; known: bits, block, "),
    ("compress task.py --to gguf2", "unknown format 'gguf2'; known: gguf, onnx, tflite"),
    ("export task.py --to gguf2 --out new", "unknown format 'gguf2'; known: gguf, onnx, tflite"),
    ("compress task.py --to onnx,onnx", "the format onnx is named twice in 'onnx,onnx'; name each once"),
    ("export task.py --to tflite,onnx,tflite --out new", "the format tflite is named twice in"),
    ("export task.py --to onnx, --out new", "unknown format ''; known: gguf, onnx, tflite"),
    ("run linear.onnx --format tflite", "linear.onnx is in the format onnx, not tflite, and is no family; leave it"),
    ("compress task.py --on pi9", "unknown device 'pi9'; known: browser, host, local, pi4, pi5"),
    ("compress task.py --on telnet://pi", "unknown link 'telnet'; known: "),
    ("compress task.py --budget speed<2ms", "unknown budget 'speed'; known: drop, latency, memory, size"),
    ("compress task.py --budget small", "the budget says 'small'; expected limits like "),
    ("compress task.py --data batch.npz", "there is no data file batch.npz; check the path"),
    ("compress task.py --data task.py", "is a task file and brings its own data; leave out --data"),
    ("compress no.py", "there is no no.py; expected a task file (task.py or task.py:name), a Hugging Face folder"),
    ("compress task.py:other", "has no function 'other'; it has: task"),
    ("compress weights.pt", "weights.pt is a pickle, which is never loaded"),
    ("compress syntax.py", "syntax.py, line 2: IndentationError: expected an indented block"),
    ("compress raises.py", "raises.py, line 2: ZeroDivisionError: division by zero"),
    ("compress imports.py", "imports.py, line 1: ModuleNotFoundError: No module named 'tensorflux'"),
    ("compress returns.py", "returns.py:task returned a str; expected a Task(Model, Data)"),
    ("compress .", ". is none of what a model can be read from; expected a task file"),
    ("compress damaged.onnx", "damaged.onnx"),
    ("compress linear.onnx --data nan.npz", "calibration input 'x' holds 3 values that are NaN or infinite"),
    ("compress linear.onnx --data names.npz", "holds the arrays ['z']; the model takes ['x']"),
    ("compress linear.onnx --data shape.npz", "'x' is float32[4, 5]; the model takes x float32[batch, 3]"),
    ("compress linear.onnx --data dtype.npz", "'x' is float64[4, 3]; the model takes x float32[batch, 3]"),
    (
        "compress linear.onnx --data empty.npz",
        "holds so many samples: {'x': 0}; expected the same number for each, and",
    ),
    ("compress linear.onnx --data damaged.onnx", "damaged.onnx cannot be read as an .npz"),
    ("run nowhere --golden", "nowhere does not exist; check the path"),
    ("run task.py --golden", "is a file; expected an artifact's folder, with artifact.json in it"),
    ("run . --golden", ". has no artifact.json; expected a folder that edgepress export or compress wrote"),
    ("run damaged.onnx --golden", "ONNX Runtime cannot open damaged.onnx: "),
    ("run linear.onnx", "expected one of --input, --text and --golden; the model takes x float32[batch, 3]"),
    ("run linear.onnx --golden", "has no golden samples; give --input NAME=FILE.npy"),
    ("run linear.onnx --text Hello", "has no tokenizer.json; give --input NAME=FILE.npy"),
    ("run linear.onnx --golden --text Hello", "expected one of --input, --text and --golden"),
    ("run linear.onnx --input no.npy", "no.npy cannot be read as an .npz or .npy (No such file or directory)"),
    ("run linear.onnx --input x=nan.npz", "--input x=nan.npz: expected NAME=FILE.npy for one array, or FILE.npz"),
    ("run linear.onnx --input names.npz", "there is no input 'z'; expected x float32[batch, 3]"),
    ("run linear.onnx --input shape.npz", "input 'x' is float32[4, 5]; expected x float32[batch, 3]"),
    ("run linear.onnx --input nan.npz --save y.txt", "--save y.txt: expected a name that ends with .npz"),
    ("verify changed", "changed/model.onnx has "),
    ("inspect changed", "changed/model.onnx has "),
    ("report linear.onnx changed", "changed/model.onnx has "),
    ("report linear.onnx --data nan.npz", "--data goes with --task, whose score it is for; name both or none."),
    ("report linear.onnx --input no.npz", "no.npz cannot be read as an .npz or .npy"),
    ("explain linear.onnx --predict no.json", "no.json cannot be read (No such file or directory"),
    ("explain linear.onnx --predict pass.toml", "pass.toml: this is no probe ("),
    (
        "explain linear.onnx --predict no.json --on pi5 --scored 1",
        "--predict computes; it goes with --data and --json",
    ),
    ("report linear.onnx --threads 0", "--threads 0: expected a number from 1 on, or best."),
    ("report linear.onnx --threads most", "--threads most: expected a number from 1 on, or best."),
    ("report linear.onnx --batch 1;2", "--batch 1;2: expected numbers from 1 on with commas between, as 1,4,16"),
    ("report linear.onnx --sustain long", "'long' is no time; expected one above 0 as 90s, 5m or 1h"),
    ("report linear.onnx --out theirs", "theirs/report.md is not a report of edgepress and would be lost"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments for arguments, _ in WRONG])
def test_what_is_wrong_is_said_in_one_line_with_what_would_be_right(desk, arguments, message):
    before = sorted(desk.rglob("*"))
    said = edgepress(*shlex.split(arguments))
    assert said.code == 2
    assert said.out == ""
    assert message in said.complaint
    assert all(line.startswith(("reading", "exporting", "judging", "timing")) for line in said.err.splitlines()[:-1])
    assert sorted(desk.rglob("*")) == before
