"""What llama.cpp logs is kept, and told as a reason of one line."""

from pathlib import Path

import llama_cpp
import pytest

from edgepress.runtime.ggml_log import logged, reason


def test_the_log_is_kept_and_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "x.gguf").write_bytes(b"GGUF nonsense")
    with logged() as lines:
        assert not llama_cpp.llama_model_load_from_file(
            str(tmp_path / "x.gguf").encode(), llama_cpp.llama_model_default_params()
        )
    assert "failed" in reason(lines, "nothing")
    assert capfd.readouterr() == ("", "")


def test_a_log_without_a_reason_gives_the_other_words():
    assert reason(["loading\n", "done\n"], "no reason") == "no reason"
