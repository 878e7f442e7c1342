"""A pair's limits follow from its files: the bits of their weights, and the steps that made them."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.float16 import Float16
from edgepress.compress.quantize import DynamicInt8, WeightOnly
from edgepress.export.formats import export
from edgepress.export.model import Model, Web
from edgepress.export.precision import BETWEEN, PRECISIONS, SAME, limits, precision_of
from edgepress.runtime import read_artifact
from edgepress.runtime.artifact import Step

from .quantize_check import chain, data_of, model_of, random, seeded

INT8, CUT = Step("dynamic_int8", {"smooth": 0.5}), Step("structured", {"ratio": 0.5})


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(chain(seeded(nn.Linear(64, 64)), nn.ReLU(), seeded(nn.Linear(64, 64))), x=random(4, 64))


BLOCKS = WeightOnly(bits=4, block=32, symmetric=True, short_scales=True)


@pytest.mark.parametrize("to", ["onnx", "tflite"])
@pytest.mark.parametrize(
    ("step", "precision"),
    [(None, "float32"), (Float16(), "float16"), (DynamicInt8(smooth=0.0), "int8"), (BLOCKS, "int4")],
)
def test_it_is_read_from_the_file(model: Model, to: str, step, precision: str, tmp_path: Path) -> None:
    made = model if step is None else step(model, data_of(model.example))
    assert precision_of(export(made, to, tmp_path / to)) == precision


def test_blocks_of_8_bits_are_int8(model: Model, tmp_path: Path) -> None:
    made = WeightOnly(bits=8, block=32)(model, data_of(model.example))
    assert precision_of(export(made, "onnx", tmp_path / "blocks")) == "int8"


def test_a_bare_file_has_a_precision_too(linear: Path) -> None:
    assert precision_of(read_artifact(linear)) == "float32"


@pytest.mark.parametrize("most", [None, 1000])
def test_a_web_build_has_that_of_its_model_in_one_piece_or_in_parts(
    model: Model, most: int | None, tmp_path: Path
) -> None:
    made = replace(DynamicInt8(smooth=0.0)(model, data_of(model.example)), web=Web(max_file=most))
    artifact = export(made, "web", tmp_path / "web")
    assert (artifact.model.name == "model.onnx") == (most is None)
    assert precision_of(artifact) == "int8"


def test_a_gguf_file_has_that_of_its_tables(llama, tmp_path: Path) -> None:
    import gguf

    from .tiny_gguf import write

    assert precision_of(read_artifact(llama[0])) == "float32"
    rows = np.ones((2, 256), np.float32)
    for kind, precision in (("F16", "float16"), ("Q8_0", "int8"), ("Q4_0", "int4"), ("Q5_1", "int4")):
        table = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind])
        path = write(tmp_path / "m.gguf", "small", {}, {"v": rows[0], "t": table}, t=gguf.GGMLQuantizationType[kind])
        assert precision_of(read_artifact(path)) == precision


def test_without_the_package_that_reads_it_the_manifest_tells_whether_there_are_integers(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = export(model, "onnx", tmp_path / "floats")
    integers = export(DynamicInt8(smooth=0.0)(model, data_of(model.example)), "onnx", tmp_path / "integers")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert [precision_of(artifact) for artifact in (floats, integers)] == ["float32", "int8"]


def test_the_coarser_file_decides() -> None:
    assert limits(("float32", ()), ("float32", ())) == SAME["float32"]
    assert limits(("float32", ()), ("int8", (INT8,))) == BETWEEN["int8"]
    assert limits(("int4", ()), ("float16", ())) == BETWEEN["int4"]


def test_the_same_steps_with_the_same_settings_made_the_same_integers() -> None:
    other = Step("dynamic_int8", {"smooth": 0.0})
    assert limits(("int8", (INT8,)), ("int8", (INT8,))) == SAME["int8"]
    assert limits(("int8", (INT8,)), ("int8", (other,))) == BETWEEN["int8"]


def test_other_networks_are_held_to_nothing() -> None:
    assert limits(("float32", ()), ("int8", (CUT, INT8))) is None
    assert limits(("float32", (CUT,)), ("int8", (CUT, INT8))) == BETWEEN["int8"]
    assert limits(("int8", (CUT, INT8)), ("int8", (CUT, INT8))) == SAME["int8"]


def test_coarser_precisions_are_never_held_to_more() -> None:
    for table in (SAME, BETWEEN):
        for finer, coarser in itertools.pairwise(PRECISIONS):
            assert table[finer].cosine >= table[coarser].cosine
            assert table[finer].worst_cosine >= table[coarser].worst_cosine
    assert all(SAME[name].cosine >= BETWEEN[name].cosine for name in PRECISIONS)
    assert torch.finfo(torch.float32).eps < 1 - BETWEEN["float32"].cosine
