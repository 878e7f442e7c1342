"""The importance matrix is the mean squared input of each column, by the name that the weight has in GGUF."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.decoder import read_decoder
from edgepress.compress.imatrix import importance_matrix
from edgepress.compress.source import Task
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, UnsupportedError

from .tiny_decoders import docstrings, write_decoder


def task(folder: Path, kind: str = "llama", **settings: object) -> Task:
    write_decoder(folder, kind, **settings)
    (folder / "texts.txt").write_text("\n".join(docstrings())[:20_000], encoding="utf-8")
    found = read_decoder(folder, folder / "texts.txt")
    return replace(found, data=replace(found.data, calibration=list(found.data.calibration)[:2]))


def test_it_is_the_mean_squared_input_of_each_column(tmp_path: Path):
    found = task(tmp_path)
    matrix = importance_matrix(found.model, found.data.calibration)
    seen: list[torch.Tensor] = []
    layer = found.model.module.get_submodule("decoder.model.layers.1.mlp.down_proj")
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    for batch in found.data.calibration:
        found.model(input_ids=torch.from_numpy(batch["input_ids"]))
    wanted = torch.cat(seen).square().mean(0).numpy()
    assert np.allclose(matrix["blk.1.ffn_down.weight"], wanted, rtol=1e-4)


@pytest.mark.parametrize(("kind", "head"), [("llama", "output.weight"), ("gpt2", "token_embd.weight"),
                                            ("gemma", "token_embd.weight"), ("phi3", "output.weight")])  # fmt: skip
def test_what_writes_the_logits_counts_by_its_own_name_or_the_tables(tmp_path: Path, kind: str, head: str):
    found = task(tmp_path, kind)
    matrix = importance_matrix(found.model, found.data.calibration)
    assert head in matrix
    assert ("token_embd.weight" in matrix) == (head == "token_embd.weight")


def test_without_text_there_is_no_matrix(tmp_path: Path):
    write_decoder(tmp_path)
    with pytest.raises(DataError, match="no text to tell which inputs matter; bring --data"):
        importance_matrix(read_decoder(tmp_path, None).model, [])


def test_a_model_that_is_none_of_transformers_is_refused():
    model = Model("net", nn.Linear(2, 2), {"x": torch.zeros(2, 2)}, ("y",), {"x": {0: "batch"}})
    with pytest.raises(UnsupportedError, match="net is none of transformers' models"):
        importance_matrix(model, [])
