"""`edgepress export --to web` and `edgepress serve`, as they are typed."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from torch import nn

from edgepress.export.formats import export
from edgepress.export.model import Model
from edgepress.runtime.artifact import Artifact, read_artifact

from .commands import edgepress as run
from .quantize_check import chain, random


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = Model("net", chain(nn.Linear(8, 64), nn.Linear(64, 2)), {"x": random(2, 8)}, ("y",), {"x": {0: "batch"}})
    return export(model, "onnx", tmp_path_factory.mktemp("cli") / "net")


def test_an_artifact_becomes_a_site_split_as_asked(artifact: Artifact, tmp_path: Path):
    done = run("export", artifact.path, "--to", "web", "--out", tmp_path / "site", "--max-file", "5MB")
    assert done.code == 0
    assert f"look at it: edgepress serve {tmp_path / 'site'}" in done.out
    site = read_artifact(tmp_path / "site")
    assert max(file.bytes for file in site.files) <= 5_000_000


def test_a_size_that_is_none_is_told(artifact: Artifact, tmp_path: Path):
    done = run("export", artifact.path, "--to", "web", "--out", tmp_path / "site", "--max-file", "25")
    assert (done.code, done.complaint) == (2, "--max-file 25: expected a size, as 25MB")


@pytest.mark.parametrize("option", [["--webgpu"], ["--max-file", "25MB"], ["--ort-web", "somewhere"]])
def test_a_setting_of_web_builds_is_refused_for_another_format(artifact: Artifact, tmp_path: Path, option: list[str]):
    done = run("export", artifact.path, "--to", "onnx", "--out", tmp_path / "out", *option)
    assert (done.code, done.complaint[:52]) == (2, "--webgpu, --max-file and --ort-web go with --to web.")
    assert not (tmp_path / "out").exists()


def test_a_device_without_an_npu_is_refused_where_nothing_is_prepared_for_it(artifact: Artifact, tmp_path: Path):
    done = run("export", artifact.path, "--to", "web", "--out", tmp_path / "out", "--on", "pi5")
    assert done.code == 2
    assert done.complaint.startswith("--on pi5: export prepares a file for an NPU, which pi5 has not; leave it out.")


def test_a_split_site_is_inspected_whole(artifact: Artifact, tmp_path: Path):
    assert run("export", artifact.path, "--to", "web", "--out", tmp_path / "site", "--max-file", "1kB").code == 0
    split, whole = run("inspect", tmp_path / "site", "--json"), run("inspect", artifact.path, "--json")
    assert split.code == 0
    assert split.json["operators"] == whole.json["operators"]


def test_a_file_that_is_not_there_is_told_with_what_a_model_can_be(tmp_path: Path):
    done = run("export", tmp_path / "no.onnx", "--to", "web", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.complaint.startswith(f"there is no {tmp_path / 'no.onnx'}; expected a task file")


def test_serve_says_where_and_ends_with_ctrl_c(artifact: Artifact, tmp_path: Path):
    assert run("export", artifact.path, "--to", "web", "--out", tmp_path / "site").code == 0
    code = f"from edgepress.compress.cli import main; main(['serve', {str(tmp_path / 'site')!r}, '--port', '0'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address.group()) as answer:
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_serve_refuses_what_is_no_web_build(artifact: Artifact):
    done = run("serve", artifact.path)
    assert (done.code, done.complaint) == (
        2, f"{artifact.path} is in the format onnx; expected a web build: export it with --to web"
    )  # fmt: skip
