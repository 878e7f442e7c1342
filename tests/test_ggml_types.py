"""The pass decides on llama.cpp's types, the exporter has them written; other formats refuse such a model."""

from pathlib import Path

import pytest

from edgepress.compress.data import Data
from edgepress.compress.ggml_types import GgmlTypes
from edgepress.compress.recipe import find_recipe
from edgepress.compress.source import Task
from edgepress.export.formats import export
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, UnknownName, UnsupportedError, UsageError

from .test_imatrix import task


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return task(tmp_path_factory.mktemp("llama"), hidden_size=256, intermediate_size=256)


def test_the_file_is_stored_in_the_type_and_judged_from_the_file(found: Task, tmp_path: Path):
    assert found.data.score is not None
    made = GgmlTypes("Q4_K_M")(found.model, found.data)
    assert made.history[-1].note.startswith("Q4_K_M: ")
    plain, small = export(found.model, "gguf", tmp_path / "plain"), export(made, "gguf", tmp_path / "small")
    assert small.bytes < plain.bytes / 4
    assert found.data.score(load(plain.path))["kl"] < 1e-6
    assert 1e-6 < found.data.score(load(small.path))["kl"] < 0.1
    assert load(small.path).selftest().passed


def test_a_recipe_says_it_in_one_table(found: Task, tmp_path: Path):
    (tmp_path / "small.toml").write_text('description = "Small."\n[[pass]]\nname = "ggml"\ntype = "Q8_0"\n')
    made = find_recipe(str(tmp_path / "small.toml"))(found.model, found.data)
    assert made.ggml.type == "Q8_0"
    assert set(made.ggml.importance) >= {"blk.0.attn_q.weight", "output.weight"}


def test_other_formats_refuse_it(found: Task, tmp_path: Path):
    made = GgmlTypes("Q8_0", importance=False)(found.model, Data())
    with pytest.raises(UnsupportedError, match="shall be stored as Q8_0, which onnx has not; export it to gguf"):
        export(made, "onnx", tmp_path / "onnx")


def test_strict_refuses_what_a_shape_forces(tmp_path: Path):
    narrow = task(tmp_path)
    GgmlTypes("Q4_K_M", importance=False)(narrow.model, Data())
    with pytest.raises(UnsupportedError, match=r"tensors cannot be Q\d_K, as .*, whose rows of 64 its blocks do not"):
        GgmlTypes("Q4_K_M", importance=False, strict=True)(narrow.model, Data())


def test_a_substitution_is_in_the_note(tmp_path: Path):
    made = GgmlTypes("Q4_K_M", importance=False)(task(tmp_path).model, Data())
    assert "Q5_0 in the place of Q4_K, for their rows' length" in made.history[-1].note


def test_what_cannot_be_right_is_said_at_once(found: Task):
    with pytest.raises(UnknownName, match="unknown GGUF type 'Q5'"):
        GgmlTypes("Q5")
    with pytest.raises(UsageError, match="ggml: megabytes = 0; expected a number above 0"):
        GgmlTypes(megabytes=0)
    with pytest.raises(DataError, match="no text to tell which inputs matter"):
        GgmlTypes()(found.model, Data())
