import json
import platform
import subprocess
import sys

from edgepress.runtime.about import about, main
from edgepress.runtime.session import ENGINES


def test_a_machine_tells_what_it_is_and_what_it_can_open():
    told = about()
    assert told["machine"]["arch"] == platform.machine()
    assert set(told["formats"]) <= set(ENGINES)
    assert "onnx" in told["formats"]
    assert told["versions"]["numpy"]
    assert told["versions"]["onnxruntime"]
    assert isinstance(told["saturates"], bool)


def test_every_engine_is_looked_for():
    from edgepress.runtime.about import _LIBRARIES

    assert set(_LIBRARIES) == set(ENGINES) - {"web"}  # a board shows no site


def test_a_library_that_a_build_of_another_name_brings_has_its_version(tmp_path, monkeypatch):
    from edgepress.runtime.about import _version

    brought = tmp_path / "engine_gpu-2.5.dist-info"
    brought.mkdir()
    (brought / "METADATA").write_text("Name: engine-gpu\nVersion: 2.5\n")
    (brought / "top_level.txt").write_text("engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _version("engine", "engine") == "2.5"
    assert _version("unknown", "unknown") is None


def test_it_is_printed_as_json(capsys):
    assert main() == 0
    assert json.loads(capsys.readouterr().out) == about() | {"machine": json.loads(json.dumps(about()["machine"]))}


def test_the_program_imports_no_engine():
    code = "import runpy, sys\ntry: runpy.run_module('edgepress.runtime.about', run_name='__main__')\n"
    code += "except SystemExit: print('onnxruntime' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
