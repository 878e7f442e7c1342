"""A plan tells each tensor's fate, for people and for scripts."""

import pytest

from edgepress.compress.gguf_plan import render, to_facts
from edgepress.export.gguf_quantize import Planned

PLAIN = Planned("blk.0.ffn_up.weight", (512, 256), "F32", "Q4_K", "Q4_K", 73_728)
FORCED = Planned("blk.0.ffn_down.weight", (256, 384), "F32", "Q4_0", "Q3_K", 55_296)


def test_facts_have_bits_a_weight_and_what_is_forced():
    facts = to_facts("Q3_K_M", [PLAIN, FORCED])
    assert facts["bytes"] == 73_728 + 55_296
    assert facts["bits"] == 4.5
    assert facts["substituted"] == ["blk.0.ffn_down.weight"]
    assert facts["tensors"][1]["better"] == "IQ4_NL"


def test_people_read_what_is_forced_and_what_would_be_better(capsys: pytest.CaptureFixture[str]):
    render("Q3_K_M", [PLAIN, FORCED])
    said = " ".join(capsys.readouterr().out.split())
    assert "not Q3_K, for rows of 384: IQ4_NL errs less" in said
    assert "1 tensors get another type for the length of their rows, and IQ4_NL errs less at no more bytes" in said
    render("Q4_K_M", [PLAIN])
    assert "No tensor's shape forces another type." in capsys.readouterr().out
