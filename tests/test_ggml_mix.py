"""Mixed bits: under the same bytes, the outputs move less than with one of llama.cpp's own mixtures."""

from pathlib import Path

import pytest

from edgepress.compress.ggml_mix import CANDIDATES, grouped, mixed_types
from edgepress.export.gguf import write
from edgepress.export.model import Ggml
from edgepress.runtime import load
from edgepress.runtime.errors import DataError, UsageError

from .test_imatrix import task


def test_at_equal_bytes_it_is_nearer_than_a_plain_type(tmp_path: Path):
    from dataclasses import replace

    found = task(tmp_path / "llama", hidden_size=256, intermediate_size=256)
    assert found.data.score is not None
    figures, sizes = {}, {}
    (tmp_path / "plain").mkdir()
    plain = write(replace(found.model, ggml=Ggml("Q3_K_M")), tmp_path / "plain")
    types = mixed_types(found.model, found.data, {}, plain.stat().st_size / 1e6)
    (tmp_path / "mixed").mkdir()
    mixed = write(replace(found.model, ggml=Ggml("Q3_K_M", types)), tmp_path / "mixed")
    for path in (plain, mixed):
        figures[path], sizes[path] = found.data.score(load(path, threads=1))["kl"], path.stat().st_size
    assert sizes[mixed] <= sizes[plain]
    assert figures[mixed] < 0.8 * figures[plain]
    assert set(types.values()) <= set(CANDIDATES)


def test_less_than_the_smallest_is_refused(tmp_path: Path):
    found = task(tmp_path, hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    with pytest.raises(UsageError, match=r"megabytes = 0.01; the smallest types take 0.\d+; allow more"):
        mixed_types(found.model, found.data, {}, 0.01)


def test_there_must_be_text_to_measure_on(tmp_path: Path):
    from dataclasses import replace

    found = task(tmp_path)
    with pytest.raises(DataError, match="megabytes wants text to measure on"):
        mixed_types(found.model, replace(found.data, calibration=()), {}, 1.0)


def test_few_tensors_are_changed_alone_and_many_with_their_like():
    few = [f"blk.{i}.{name}.weight" for i in range(2) for name in ("attn_q", "ffn_up")]
    assert sorted(map(len, grouped([*few, "token_embd.weight"]).values())) == [1] * 5
    many = [f"blk.{i}.{name}.weight" for i in range(100) for name in ("attn_q", "ffn_up")]
    groups = grouped(many)
    assert len(groups) == 64
    assert sorted(name for members in groups.values() for name in members) == sorted(many)
