"""What is known of an architecture is data, and true."""

import torch

from edgepress.export.gguf_architectures import ARCHITECTURES, find_architecture, permuted, rotary_factors, settings


def test_permuted_rows_go_from_halves_to_pairs():
    rows = torch.arange(2 * 6.0).reshape(12, 1)  # two heads of six rows
    wanted = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert permuted(rows, 2)[:, 0].tolist() == wanted


def test_every_architecture_is_one_that_the_official_package_knows():
    import gguf

    assert {known.name for known in ARCHITECTURES.values()} <= set(gguf.MODEL_ARCH_NAMES.values())


def test_both_ways_of_writing_rotary_settings_are_read():
    base = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
            "max_position_embeddings": 64}  # fmt: skip
    old = base | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = base | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}
    architecture = find_architecture(base)
    assert settings(old, architecture) == settings(new, architecture)
    assert settings(old, architecture)["rope.freq_base"] == 5e5
    assert settings(old, architecture)["rope.scaling.factor"] == 2.0


def test_rotary_factors_divide_low_frequencies_only():
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    factors = rotary_factors({"head_dim": 128, "rope_parameters": rope})
    assert factors is not None
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert (factors.diff() >= 0).all()
    assert rotary_factors({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}) is None
