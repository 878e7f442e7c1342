"""The LiteRT engine: fixed shapes serve calls of any length, and its failures are told in our words."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.compress.static import StaticInt8
from edgepress.export.formats import export
from edgepress.export.tflite_file import read_file
from edgepress.runtime import load
from edgepress.runtime.artifact import GOLDEN, Artifact, Port, describe, write_manifest
from edgepress.runtime.errors import EngineError, PortError, UnknownName, UsageError
from edgepress.runtime.golden import Case, read_golden, write_golden
from edgepress.runtime.litert import start
from edgepress.runtime.tflite_notes import ENTRY, Notes, read_notes

from .quantize_check import chain, model_of, random, seeded
from .tflite_check import Graph, build, ones

ROOT = Path(__file__).resolve().parent.parent

BATCH = Notes((Port("x", "float32", ("batch", 3)),), (Port("y", "float32", ("batch", 3)),), pieces="batch")
TEXT = Notes((Port("x", "int64", ("batch", "sequence")),), (Port("y", "int64", ("batch", "sequence")),), pieces="batch")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ours: `y = x + x`, int64 outside and int32 inside, for sequences of 4 and of 8, one at a time."""
    path = tmp_path_factory.mktemp("text") / "text.tflite"
    graphs = [Graph((1, length), f"sequence_{length}", dtype="int32") for length in (8, 4)]
    return build(path, *graphs, notes=TEXT)


def test_a_bare_file_has_the_ports_that_it_tells(tmp_path: Path):
    model = load(build(tmp_path / "m.tflite", Graph((2, 3))))
    assert (model.inputs, model.outputs) == ((Port("x", "float32", (2, 3)),), (Port("y", "float32", (2, 3)),))
    assert np.array_equal(model(x=ones(2, 3))["y"], 2 * ones(2, 3))
    with pytest.raises(PortError, match=r"input 'x' is float32\[1, 3\]; expected x float32\[2, 3\]"):
        model(x=ones(1, 3))


def test_a_bare_file_with_one_signature_has_its_names(tmp_path: Path):
    model = load(build(tmp_path / "m.tflite", Graph((2, 3), "serving_default", names=("image", "logits"))))
    assert np.array_equal(model(image=ones(2, 3))["logits"], 2 * ones(2, 3))


def test_a_bare_file_with_several_signatures_is_refused_by_their_names(tmp_path: Path):
    path = build(tmp_path / "m.tflite", Graph((2, 3), "encode"), Graph((1, 3), "decode"))
    with pytest.raises(EngineError, match="has the signatures encode, decode"):
        load(path)


@pytest.mark.parametrize("signature", ["", "serving_default"])
def test_a_free_axis_of_a_bare_file_takes_any_length(tmp_path: Path, signature: str):
    model = load(build(tmp_path / "m.tflite", Graph((1, 3), signature, free=(-1, 3))))
    assert model.inputs == (Port("x", "float32", ("batch", 3)),)
    for batch in (1, 5, 2, 5):
        x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
        assert np.array_equal(model(x=x)["y"], x + x)


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 7])
def test_a_batch_is_run_in_pieces_of_what_the_file_takes(tmp_path: Path, batch: int):
    for size in (1, 2):
        engine = start(build(tmp_path / "m.tflite", Graph((size, 3), "run"), notes=BATCH))
        assert engine.inputs == BATCH.inputs
        x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
        assert np.array_equal(engine.run({"x": x})["y"], x + x)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8])
def test_a_short_input_is_padded_and_its_output_cut(text: Path, length: int):
    x = np.arange(2 * length).reshape(2, length) + 1
    y = load(text)(x=x)["y"]
    assert y.dtype == np.int64
    assert np.array_equal(y, x + x)


def test_the_shortest_signature_that_fits_is_run(text: Path, monkeypatch: pytest.MonkeyPatch):
    from ai_edge_litert.interpreter import SignatureRunner

    ran = []
    call = SignatureRunner.__call__
    monkeypatch.setattr(
        SignatureRunner, "__call__", lambda self, **inputs: (ran.append(inputs["x"].shape), call(self, **inputs))[1]
    )
    model = load(text)
    for length in (1, 4, 5, 8):
        model(x=np.ones((1, length), np.int64))
    assert ran == [(1, 4), (1, 4), (1, 8), (1, 8)]


def test_a_file_tells_the_lengths_that_it_is_run_at(text: Path):
    assert load(text).engine.needs == {"lengths": {"batch": [1], "sequence": [4, 8]}}


def test_an_input_that_is_too_long_says_how_long_it_may_be(text: Path):
    with pytest.raises(PortError) as error:
        load(text)(x=np.ones((2, 9), np.int64))
    assert str(error.value) == (
        "the inputs have batch 2, sequence 9; this file takes sequence up to 8: cut them, or export it with longer "
        "--lengths"
    )


@pytest.mark.parametrize("ports", [("a", "float32", ("batch", 3)), ("x", "int8", ("batch", 3)), ("x", "float32", (3,))])
def test_notes_that_do_not_belong_to_the_file_are_refused(tmp_path: Path, ports: tuple):
    notes = Notes((Port(*ports),), BATCH.outputs, pieces="batch")
    with pytest.raises(EngineError, match=f"has other ports than its notes tell, as '{ports[0]}'; export it again"):
        start(build(tmp_path / "m.tflite", Graph((1, 3), "run"), notes=notes))


def test_a_number_that_the_file_cannot_hold_is_refused(text: Path):
    with pytest.raises(PortError, match=r"input 'x' holds 1 to 3000000000; the file keeps it in int32"):
        load(text)(x=np.array([[1, 3_000_000_000]]))


def test_one_model_answers_several_threads(text: Path):
    model = load(text)
    inputs = [np.full((i % 3 + 1, i % 8 + 1), i) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda x: model(x=x)["y"], inputs))
    assert all(np.array_equal(y, 2 * x) for x, y in zip(inputs, outputs, strict=True))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1c\0\0\0TFL3" * 50])
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(EngineError, match=r"LiteRT cannot open .*m\.tflite: ") as error:
        load(tmp_path / "m.tflite")
    assert "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_an_engine_error(text: Path, tmp_path: Path):
    content = text.read_bytes()
    for length in range(1, len(content) - 1, 13):
        (tmp_path / "m.tflite").write_bytes(content[:length])
        with pytest.raises(EngineError):
            load(tmp_path / "m.tflite")


def test_an_operator_that_litert_lacks_is_named(tmp_path: Path):
    path = build(tmp_path / "m.tflite", Graph((2, 3)), op=schema.BuiltinOperator.CUSTOM, custom=b"Nonsense")
    with pytest.raises(EngineError, match="Nonsense") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_file_that_needs_another_library_is_refused_with_its_name(tmp_path: Path):
    notes = Notes(BATCH.inputs, BATCH.outputs, "batch", needs="another-library")
    with pytest.raises(EngineError) as error:
        load(build(tmp_path / "m.tflite", Graph((1, 3), "run"), notes=notes))
    assert "needs another-library, ai-edge-litert would compute it wrongly" in str(error.value)


def test_other_providers_than_the_cpu_are_unknown(text: Path):
    assert start(text, providers="CPU").providers == ("cpu",)
    with pytest.raises(UnknownName, match="unknown execution provider 'tpu'; known: cpu, xnnpack"):
        start(text, providers=["tpu"])
    with pytest.raises(EngineError, match="qnn is one of ONNX Runtime's providers; LiteRT runs on cpu and xnnpack"):
        start(text, providers=["qnn"])


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(text: Path, threads: int):
    with pytest.raises(UsageError, match=f"threads is {threads}"):
        load(text, threads=threads)


def test_without_the_library_the_line_that_installs_it_is_said(text: Path):
    code = (
        "import sys; sys.modules['ai_edge_litert'] = sys.modules['tflite_runtime'] = None\n"
        "from edgepress.runtime import EdgepressError, load\n"
        f"try: load({str(text)!r})\n"
        "except EdgepressError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "ai-edge-litert is not installed; it comes with: pip install 'edgepress[litert]'\n"


def test_running_a_file_imports_neither_torch_nor_another_engine(text: Path):
    code = (
        "import sys, edgepress.runtime as r\n"
        "assert 'ai_edge_litert' not in sys.modules\n"
        f"r.load({str(text)!r})\n"
        "assert not {'torch', 'jax', 'onnxruntime', 'litert_torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The old runtime, for which wheels stop at Python 3.11, beside the NumPy that it wants.
OLD = ("tflite-runtime==2.14.0", "numpy<2")
ASK = """
import json, sys
from edgepress.runtime import EdgepressError, load
for path in sys.argv[1:]:
    try: print(json.dumps(load(path, threads=1).selftest().difference))
    except EdgepressError as error: print(json.dumps(str(error)))
"""


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[float | str]]:
    """Load artifacts with tflite-runtime 2.14: the difference that a self-test saw, or the line that refused."""
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None:
        pytest.skip("NOT TESTED: tflite-runtime has no wheels for Pythons after 3.11, and there is no python3.11 here")
    folder = tmp_path_factory.mktemp("old")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")}
    clean["PYTHONPATH"] = str(folder)
    (folder / "edgepress").symlink_to(ROOT, target_is_directory=True)
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True, env=clean)
    inside = folder / "venv" / "bin" / "python"
    install = (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OLD)
    subprocess.run(install, check=True, env=clean)

    def ask(*paths: Path) -> list[float | str]:
        done = subprocess.run([inside, "-c", ASK, *paths], env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Two products as they are, in dynamic int8 and with weights in blocks; convolutions in static int8."""
    x, image = random(4, 64), random(4, 3, 9, 9)
    plain = model_of(seeded(chain(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 5))), x=x)
    picture = model_of(seeded(chain(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(1))), x=image)
    made = {
        "float": plain,
        "dynamic": DynamicInt8(smooth=0.0)(plain, Data()),
        "blocks": WeightOnly(symmetric=True, short_scales=True)(plain, Data()),
        "static": StaticInt8()(picture, Data(calibration=[{"x": image.numpy()}])),
    }
    root = tmp_path_factory.mktemp("products")
    return {name: export(model, "tflite", root / name) for name, model in made.items()}


def without_needs(artifact: Artifact, folder: Path) -> Path:
    """The artifact as an exporter would have written it that knows nothing of the old library."""
    shutil.copytree(artifact.path, folder)
    file, notes = read_file(artifact.model), read_notes(artifact.model)
    assert notes is not None
    (entry,) = [entry for entry in file.model.metadata if entry.name == ENTRY.encode()]
    entry.buffer = file.add_buffer(replace(notes, needs="").to_json())
    (folder / artifact.model.name).write_bytes(file.to_bytes())
    files = (describe(folder / artifact.model.name), *(f for f in artifact.files if f.role != "model"))
    write_manifest(replace(artifact, path=folder, files=files))
    assert load(folder).selftest().passed
    return folder


def test_the_old_runtime_computes_floats_and_static_int8_rightly(old, products: dict[str, Artifact]):
    float_, static = old(products["float"].path, products["static"].path)
    assert float_ <= 1e-5
    assert static <= products["static"].tolerance


def test_the_manifest_keeps_the_old_runtime_from_what_it_computes_wrongly(old, products: dict[str, Artifact]):
    for name in ("dynamic", "blocks"):
        assert products[name].needs["engine"] == "ai-edge-litert"
        (said,) = old(products[name].path)
        assert "needs ai-edge-litert, tflite-runtime would compute it wrongly; it comes with: pip install" in said


def test_the_golden_samples_keep_it_from_what_no_manifest_warns_of(old, products: dict[str, Artifact], tmp_path: Path):
    (said,) = old(without_needs(products["dynamic"], tmp_path / "dynamic"))
    assert "computes wrongly here: its golden samples come out" in said


def test_an_artifact_whose_engine_gives_other_numbers_is_refused_at_load(products: dict[str, Artifact], tmp_path: Path):
    artifact = products["float"]
    other = tmp_path / "other"
    shutil.copytree(artifact.path, other)
    golden = [Case(case.inputs, {"y": case.outputs["y"] * 1.01}) for case in read_golden(other / GOLDEN)]
    write_golden(other / GOLDEN, golden)
    files = tuple(describe(other / f.name, f.role) for f in artifact.files)
    write_manifest(replace(artifact, path=other, files=files))
    with pytest.raises(
        EngineError, match=r"computes wrongly here: its golden samples come out 9\.9e-03 apart"
    ) as error:
        load(other)
    assert "\n" not in str(error.value)
    assert not load(other, verify=False).selftest().passed
