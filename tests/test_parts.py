"""A web build's model opens natively, whole or in parts, and computes the same."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edgepress.export.formats import export
from edgepress.runtime.errors import EngineError
from edgepress.runtime.parts import start

from .quantize_check import chain, model_of, random


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = model_of(chain(nn.Linear(8, 64), nn.Linear(64, 4)), x=random(2, 8))
    return export(model, "onnx", tmp_path_factory.mktemp("parts") / "whole").model


def test_parts_in_their_order_are_the_whole(whole: Path, tmp_path: Path):
    content = whole.read_bytes()
    for index in range(0, 12):
        piece = content[index * 100 : (index + 1) * 100] if index < 11 else content[1100:]
        (tmp_path / f"model.onnx.{index:03d}").write_bytes(piece)
    x = np.ones((3, 8), np.float32)
    expected = start(whole, threads=1).run({"x": x})
    found = start(tmp_path / "model.onnx.000", threads=1).run({"x": x})
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_a_part_that_is_missing_is_told(whole: Path, tmp_path: Path):
    (tmp_path / "model.onnx.000").write_bytes(whole.read_bytes()[:100])
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot open .*model\.onnx\.000"):
        start(tmp_path / "model.onnx.000")
