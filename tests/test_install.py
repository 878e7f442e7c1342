"""What a user installs: a wheel that holds the package and nothing else, small, and running without torch."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("compress", "devices", "export", "runtime")
LIMIT = 200_000_000  # bytes

# PYTHONPATH would lend the fresh environment what it lacks.
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return sorted({name for name in listed if (ROOT / name).is_file()})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves its own folder in the tree, and finds what an earlier one left."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel and what it needs, as a device has it."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
    return folder


def test_the_wheel_is_for_any_platform_and_holds_the_package_and_nothing_else(wheel: Path):
    assert wheel.name.endswith("-py3-none-any.whl")
    shipped = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    files = [n for n in tracked() if n.split("/")[0] in PACKAGES or n in ("__init__.py", "py.typed")]
    assert shipped == {f"edgepress/{name}" for name in files}


def test_the_wheel_carries_its_license(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith("LICENSE")]
    assert "Apache License" in archive.read(name).decode()


def test_the_base_install_stays_under_200_megabytes(fresh: Path):
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < LIMIT, f"{size / 1e6:.0f} MB"


def test_the_base_install_has_no_torch_and_runs_an_artifact(fresh: Path, artifact: Path):
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(fresh)}))
    installed = {path.name for path in packages.iterdir()}
    assert {"edgepress", "numpy", "onnxruntime"} <= installed
    assert not installed & {"torch", "onnx", "transformers", "scipy"}
    code = (
        "import sys; import numpy as np; from edgepress.runtime import load; model = load(sys.argv[1])\n"
        "assert model.selftest().passed; print(model(x=np.ones((1, 3), np.float32))['y'].tolist())"
    )
    assert run(fresh / "bin" / "python", "-I", "-c", code, artifact, cwd=fresh) == "[[9.0, 12.0]]\n"


@pytest.mark.skipif(not (ROOT / "compress" / "cli.py").exists(), reason="there is no command line yet")
def test_the_base_install_has_a_command_line(fresh: Path, artifact: Path, tmp_path: Path):
    command = fresh / "bin" / "edgepress"
    assert "compress" in run(command, "--help", cwd=fresh)
    again = shutil.copytree(artifact, tmp_path / "again")
    assert "held against each other on 2 golden" in run(command, "verify", artifact, again, cwd=fresh)


def make(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1', "Python 3.9.2; edgepress needs Python 3.11"),
        ("exit 127", "not to be found; edgepress needs Python 3.11"),
        ('case "$2" in *ensurepip*) exit 1;; esac; exit 0', "apt-get install python3-venv"),
    ],
    ids=["too old", "missing", "without venv"],
)
def test_make_says_in_one_line_what_is_missing(tmp_path: Path, script: str, says: str):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    done = make("test", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", cwd=ROOT)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_lists_every_target():
    listed = make("help", cwd=ROOT).stdout
    for target in ("demo", "test", "test-all", "lint", "bench", "clean"):
        assert f"make {target} " in listed
