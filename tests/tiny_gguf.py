"""What the tests of GGUF share: small files, written here by hand and not by the exporter that has its own tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_NORMAL, _CONTROL = 1, 3
_LLAMA = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LLAMA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BERT = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BERT_BLOCK = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_llama(path: Path, folder: Path, weights: Mapping[str, np.ndarray], **metadata: Any) -> Path:
    """A Llama folder of transformers as GGUF in F32. `metadata` replaces or, with None, leaves out values by key.

    Dots are written `__`: `llama__context_length=64`.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters", config)
    about = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": shared,
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.freq_base": float(rope["rope_theta"]),
        "llama.rope.dimension_count": config["hidden_size"] // heads,
    }
    tensors = {}
    for name, array in weights.items():
        if "q_proj" in name or "k_proj" in name:
            array = _interleaved(array, heads if "q_proj" in name else shared)
        tensors[_renamed(name, _LLAMA, "model.layers.", _LLAMA_BLOCK)] = array
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].__getitem__)
    special = {token["content"] for token in raw["added_tokens"] if token["special"]}
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    about |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [_CONTROL if word in special else _NORMAL for word in words],
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in raw["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": template,
    }
    return write(path, "llama", about | _dotted(metadata), tensors)


def write_bert(path: Path, folder: Path, weights: Mapping[str, np.ndarray], **metadata: Any) -> Path:
    """A BERT folder with WordPiece, as GGUF in F32, mean pooling; `metadata` as for `write_llama`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {
        _renamed(name.removeprefix("bert."), _BERT, "encoder.layer.", _BERT_BLOCK): array
        for name, array in weights.items()
        if not name.startswith(("pooler.", "embeddings.position_ids"))
    }
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = raw["model"]["vocab"]
    special = {token["content"] for token in raw["added_tokens"]}
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    shown = [w if w in special else w[2:] if w.startswith("##") else "▁" + w for w in words]
    about = {
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": shown,
        "tokenizer.ggml.token_type": [_CONTROL if word in special else _NORMAL for word in words],
        "tokenizer.ggml.bos_token_id": vocabulary["[CLS]"],
        "tokenizer.ggml.eos_token_id": vocabulary["[SEP]"],
        "tokenizer.ggml.unknown_token_id": vocabulary["[UNK]"],
        "tokenizer.ggml.seperator_token_id": vocabulary["[SEP]"],
        "tokenizer.ggml.padding_token_id": vocabulary["[PAD]"],
        "tokenizer.ggml.mask_token_id": vocabulary["[MASK]"],
    }
    return write(path, "bert", about | _dotted(metadata), tensors)


def write(
    path: Path, architecture: str, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray], **kinds: Any
) -> Path:
    """A GGUF file of these values and tensors; a value of None is left out. `kinds` are the types of quantized ones."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in about.items():
        if value is None or key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array, array.dtype), raw_dtype=kinds.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _dotted(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in metadata.items()}


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbours (0, 1), (2, 3), …; transformers turns i and i + half."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _renamed(name: str, fixed: Mapping[str, str], block: str, parts: Mapping[str, str]) -> str:
    if name in fixed:
        return fixed[name]
    stem, _, kind = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{kind}"
    number, _, part = stem.removeprefix(block).partition(".")
    return f"blk.{number}.{parts[part]}.{kind}"
