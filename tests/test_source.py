"""MODEL, as it is typed: what can be read is read, and the rest is refused in one line with what would be right."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgepress.compress.quantize import DynamicInt8
from edgepress.compress.source import read_source, with_lengths
from edgepress.compress.static import StaticInt8
from edgepress.runtime.errors import DataError, EdgepressError, ModelError, UnsupportedError, UsageError

from .onnx_check import floats, helper, write
from .tiny_encoders import LONGEST, texts, write_encoder

TASK = """\
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.source import Task
from edgepress.export.model import Model


def task():
    return Task(Model("net", nn.ReLU(), {"input": torch.ones(2, 3)}, ("y",), {"input": {0: "batch"}}), Data())


def other():
    found = task()
    return Task(found.model, Data(score=lambda session: {"closeness": session(x=1)}))
"""


def write_task(folder: Path, *lines: str, name: str = "task.py") -> Path:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def refused(text: object, kind: type[EdgepressError] = ModelError, data: Path | None = None) -> str:
    """The one line with which it is refused."""
    with pytest.raises(kind) as caught:
        read_source(str(text), data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path, TASK)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny-bert"
    write_encoder(folder)
    return folder


def test_a_task_file_is_run_and_its_hash_is_the_source(task: Path):
    found = read_source(str(task))
    assert found.model.name == "net"
    assert found.model.source == {"kind": "task", "sha256": hashlib.sha256(task.read_bytes()).hexdigest()}


def test_another_function_is_named_after_a_colon(task: Path):
    assert read_source(f"{task}:task").data.score is None
    assert read_source(f"{task}:other").data.score is not None


@pytest.mark.parametrize("name", ["", "nothing", "nn", "torch"])
def test_a_function_that_is_not_there_is_told_with_those_that_are(task: Path, name: str):
    assert refused(f"{task}:{name}", UsageError) == f"{task} has no function {name!r}; it has: task, other"
    empty = write_task(task.parent, "x = 3", name="empty.py")
    assert refused(empty, UsageError).endswith("has no function 'task'; it has: none")


def test_a_source_that_the_task_names_itself_is_kept(tmp_path: Path):
    named = TASK.replace('{0: "batch"}})', '{0: "batch"}}, source={"kind": "hub"})')
    assert read_source(str(write_task(tmp_path, named))).model.source == {"kind": "hub"}


def test_a_task_file_finds_its_neighbours_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_task(tmp_path, "NAME = 'from a neighbour'", name="neighbour_of_a_task.py")
    task = write_task(tmp_path, "from neighbour_of_a_task import NAME", TASK.replace('"net"', "NAME"))
    assert read_source(str(task)).model.name == "from a neighbour"
    monkeypatch.chdir(tmp_path)
    assert read_source("task.py").model.name == "from a neighbour"


def test_a_task_file_may_define_dataclasses(tmp_path: Path):
    more = "from __future__ import annotations", "from dataclasses import dataclass", "@dataclass", "class Size: n: int"
    assert read_source(str(write_task(tmp_path, *more, TASK))).model.name == "net"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["def task():", "    return 1 / 0"], "line 2: ZeroDivisionError: division by zero"),
        (["import torch", "", "x = torch.ones(2) @ torch.ones(3)"], "line 3: RuntimeError: inconsistent tensor size"),
        (["def task():", "    return inner()", "def inner():", "    return {}['x']"], "line 4: KeyError: 'x'"),
        (["def task():", "    raise ValueError"], "line 2: ValueError: ValueError"),
        (["def task():", "    raise ValueError('one\\ntwo')"], "line 2: ValueError: one"),
        (["def task():", "    return ("], "line 2: SyntaxError: '(' was never closed"),
        (["x = 1", "  y = 2"], "line 2: IndentationError: unexpected indent"),
        (
            ["x = 1", "import no_such_module"],
            "ModuleNotFoundError: No module named 'no_such_module'; install it",
        ),
        (["from edgepress.export.model import Modell"], "line 1: ImportError: cannot import name 'Modell'"),
        (["def task():", "    import no_such_module"], "line 2: ModuleNotFoundError"),
        (["import sys", "sys.exit(3)"], "line 2: SystemExit: 3"),
        (["def task():", "    raise SystemExit"], "line 2: SystemExit"),
        (["class Odd(Exception): pass", "raise Odd('odd')"], "line 2: Odd: odd"),
        (["def task(model): pass"], "TypeError: task() missing 1 required positional argument"),
    ],
)
def test_what_a_task_file_raises_is_told_with_its_line(tmp_path: Path, lines: list[str], said: str):
    assert said in refused(write_task(tmp_path, *lines))


def test_a_syntax_error_in_a_neighbour_is_blamed_on_the_line_that_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_task(tmp_path, *["x = 1"] * 8, "x = (", name="broken_neighbour.py")
    said = refused(write_task(tmp_path, "", "import broken_neighbour"))
    assert "task.py, line 2: SyntaxError: '(' was never closed (broken_neighbour.py, line 9)" in said


def test_the_line_is_found_behind_a_link(tmp_path: Path):
    real = write_task(tmp_path, "1 / 0")
    (tmp_path / "link.py").symlink_to(real)
    assert "link.py, line 1: ZeroDivisionError" in refused(tmp_path / "link.py")


def test_the_package_of_the_samples_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as where it is not installed
    said = refused(write_task(tmp_path, "import sklearn"))
    assert said.endswith("the samples' packages come with: pip install 'edgepress[samples]'")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("None", "returned a NoneType"),
        ("torch.nn.ReLU()", "returned a ReLU"),
        ("(1, 2)", "returned a tuple"),
        ("Task(torch.nn.ReLU(), Data())", "returned a Task of ReLU and Data"),
        ("Task(task().model, [])", "returned a Task of Model and list"),
    ],
)
def test_a_function_that_returns_no_task_is_refused(tmp_path: Path, result: str, said: str):
    path = write_task(tmp_path, TASK, "", "def wrong():", f"    return {result}")
    assert refused(f"{path}:wrong") == f"{path}:wrong {said}; expected a Task(Model, Data)"


def test_a_model_that_does_not_fit_itself_is_told_as_it_is(tmp_path: Path):
    said = refused(write_task(tmp_path, TASK.replace('{0: "batch"}', '{5: "batch"}')))
    assert said.startswith("net: the example of 'input' has the shape [2, 3], and its axis 5 shall stay free")


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("session.no_such_thing", "line 15: AttributeError"),
        ("0.5", "the score returned 0.5; expected figures by name"),
        ("{}", "the score returned {}"),
        ("{'top1': 'good'}", "the score returned {'top1': 'good'}"),
    ],
)
def test_a_score_that_fails_is_told_with_its_line(tmp_path: Path, score: str, said: str):
    path = write_task(tmp_path, TASK.replace('{"closeness": session(x=1)}', score))
    found = read_source(f"{path}:other").data.score
    assert found is not None
    with pytest.raises(ModelError) as caught:
        found(lambda **inputs: {})
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_score_keeps_what_is_raised_on_purpose(task: Path):
    found = read_source(f"{task}:other").data.score

    def session(**inputs: object) -> dict[str, np.ndarray]:
        raise UnsupportedError("as it is")

    assert found is not None
    with pytest.raises(UnsupportedError, match="as it is"):
        found(session)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".pt2", ".PT"])
def test_a_pickle_is_never_loaded(tmp_path: Path, suffix: str):
    path = tmp_path / f"model{suffix}"
    torch.save({"weight": torch.ones(2)}, path)
    assert refused(path) == f"{path} is a pickle, which is never loaded; save safetensors and load them in a task file"


@pytest.mark.parametrize("name", ["none.py", "none.onnx", "none", "none.py:task", "folder/", "task.py:a:b", "a\0b"])
def test_what_is_not_there_is_told_with_what_is_expected(task: Path, name: str):
    said = refused(task.parent / name)
    assert said.startswith("there is no ")
    assert said.endswith(
        "expected a task file (task.py or task.py:name), a Hugging Face folder with config.json, or an .onnx file"
    )


def test_what_is_something_else_is_told_with_what_is_expected(tmp_path: Path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    for path in (tmp_path / "model.safetensors", tmp_path / "notes.txt", tmp_path):
        assert refused(path).startswith(f"{path} is none of what a model can be read from; expected a task file")


@pytest.mark.parametrize("name", ["folder.py", "folder.onnx"])
def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    assert str(tmp_path / name) in refused(tmp_path / name)


def test_data_that_is_not_there_is_told_before_the_model_is_read(task: Path, encoder: Path):
    for model in (task, encoder, "none.onnx"):
        said = refused(model, DataError, data=task.parent / "none.txt")
        assert said == f"there is no data file {task.parent / 'none.txt'}; check the path"


def test_a_task_file_takes_no_other_data(task: Path):
    assert "is a task file and brings its own data; leave out --data" in refused(task, UsageError, data=task)


def test_a_folder_is_an_encoder_however_it_is_written(encoder: Path, tmp_path: Path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts(6)), encoding="utf-8")
    for text in (str(encoder), f"{encoder}/"):
        found = read_source(text, path)
        assert found.model.name == "tiny-bert"
        assert found.model.source["kind"] == "hugging-face"
        assert found.data.score is not None
    assert read_source(str(encoder)).data.score is None


def linear_file(folder: Path, name: str = "linear.onnx") -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return write(folder / name, nodes, {"x": (1, ("n", 16))}, {"y": 1}, {"w": floats(16, 4)})


def test_an_onnx_file_is_read_with_its_samples(tmp_path: Path):
    samples = floats(6, 16)
    np.savez(tmp_path / "batch.npz", x=samples)
    for name in ("linear.onnx", "LINEAR.ONNX"):
        path = linear_file(tmp_path, name)
        found = read_source(str(path), tmp_path / "batch.npz")
        assert found.model.source == {"kind": "onnx", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        assert np.array_equal(found.model.example["x"].numpy(), samples[:2])
        assert found.data.score is not None


def test_data_of_the_other_kind_is_refused(tmp_path: Path, encoder: Path):
    (tmp_path / "texts.txt").write_text("\n".join(texts(6)), encoding="utf-8")
    np.savez(tmp_path / "batch.npz", x=floats(6, 16))
    said = refused(linear_file(tmp_path), DataError, data=tmp_path / "texts.txt")
    assert f"{tmp_path / 'texts.txt'} cannot be read as an .npz" in said
    said = refused(encoder, DataError, data=tmp_path / "batch.npz")
    assert f"{tmp_path / 'batch.npz'} cannot be read as text" in said


@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_without_data_a_pass_that_wants_some_says_so(kind: str, tmp_path: Path, encoder: Path):
    found = read_source(str(encoder if kind == "folder" else linear_file(tmp_path)))
    for step in (StaticInt8(), DynamicInt8(smooth=0.5)):
        with pytest.raises(DataError, match="needs calibration data and got no batch; bring --data") as caught:
            step(found.model, found.data)
        assert "\n" not in str(caught.value)
    assert DynamicInt8(smooth=0)(found.model, found.data).history


def test_lengths_are_those_of_every_free_axis_but_the_first(tmp_path: Path):
    folder = tmp_path / "encoder"
    write_encoder(folder)
    task = read_source(str(folder))
    assert with_lengths(task, "").model.lengths == {"sequence": (LONGEST,)}  # all that it has positions for
    assert with_lengths(task, "64, 16,64").model.lengths == {"sequence": (16, 64)}


@pytest.mark.parametrize("text", ["0", "16,", "a", "-3", "16.5"])
def test_lengths_that_are_no_numbers_are_refused(tmp_path: Path, text: str):
    task = read_source(str(write_task(tmp_path, TASK)))
    with pytest.raises(UsageError, match="expected numbers from 1 on with commas between, as 16,64"):
        with_lengths(task, text)


def test_lengths_for_a_model_without_such_an_axis_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="--lengths 16: net has no free axis but the first; leave it out"):
        with_lengths(read_source(str(write_task(tmp_path, TASK))), "16")
