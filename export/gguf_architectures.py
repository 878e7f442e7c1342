"""What is known of each architecture that GGUF is written for: its name there, its settings, its tensors' changes.

Knowledge is data: an entry a `model_type` of transformers. A setting that llama.cpp's graph of that architecture does
not compute is refused by name, for it would be dropped in silence.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..runtime.errors import UnsupportedError

Config = Mapping[str, Any]
Change = Callable[[Tensor, Config], Tensor]


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection, from halves (rotary as transformers has it) to pairs (as llama.cpp has it).

    weight: (heads·d, ...) -> the same shape: row `h·d + 2i + p` is that which was `h·d + p·d/2 + i`.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _queries(weight: Tensor, config: Config) -> Tensor:
    return permuted(weight, config["num_attention_heads"])


def _keys(weight: Tensor, config: Config) -> Tensor:
    return permuted(weight, config.get("num_key_value_heads") or config["num_attention_heads"])


def _plus_one(weight: Tensor, config: Config) -> Tensor:
    return weight.float() + 1  # (1 + w)·x̂, of which the file stores 1 + w


def _transposed(weight: Tensor, config: Config) -> Tensor:
    return weight.T  # GPT-2 multiplies x·W


@dataclass(frozen=True)
class Architecture:
    """How models of one `model_type` are written.

    `name` is llama.cpp's. `changes` maps the end of a tensor's name to what is done to it; tensors whose names end as
    one of `dropped` are computed without. `expected` are settings with the values that llama.cpp computes with.
    `pattern` is the number of layers of which the last attends to everything and the others to a window; `broad` is the
    depth of the one size whose queries are scaled by the model's width a head in the place of a head's own.
    """

    name: str
    changes: Mapping[str, Change] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    expected: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    pattern: int = 0
    broad: int = 0
    prefix: str = ""

    def changed(self, source: str, tensor: Tensor, config: Config) -> Tensor:
        """The tensor as the file has it, by the name that it has in the source."""
        change = next((change for ending, change in self.changes.items() if source.endswith(ending)), None)
        return tensor if change is None else change(tensor, config)


_SILU = {"hidden_act": ("silu", "swish", None)}
_ROTARY = {"q_proj.weight": _queries, "q_proj.bias": _queries, "k_proj.weight": _keys, "k_proj.bias": _keys}
_LLAMA = Architecture("llama", _ROTARY, expected=_SILU | {"pretraining_tp": (1, None)})
_QWEN = _SILU | {"use_sliding_window": (False, None)}
_GELU = {"hidden_activation": ("gelu_pytorch_tanh", None), "hidden_act": ("gelu_pytorch_tanh", "gelu", None)}
_TRANSPOSED: dict[str, Change] = dict.fromkeys(("c_attn.weight", "c_proj.weight", "c_fc.weight"), _transposed)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", expected=_QWEN),
    "qwen3": Architecture("qwen3", expected=_QWEN | {"attention_bias": (False, None)}),
    "gemma": Architecture("gemma", {"norm.weight": _plus_one}, expected=_GELU),
    "gemma2": Architecture("gemma2", {"norm.weight": _plus_one}, expected=_GELU, pattern=2, broad=46),
    "gemma3_text": Architecture(
        "gemma3",
        {"norm.weight": _plus_one},
        expected=_GELU | {"attn_logit_softcapping": (None,)},
        pattern=6,
        broad=62,
    ),
    "phi3": Architecture("phi3", expected=_SILU),
    "gpt2": Architecture(
        "gpt2",
        _TRANSPOSED,
        dropped=(".attn.bias", ".attn.masked_bias"),
        expected={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "scale_attn_weights": (True, None),
        },
    ),
    "bert": Architecture(
        "bert",
        dropped=("position_ids", "pooler.dense.weight", "pooler.dense.bias"),
        expected={"hidden_act": ("gelu", None), "position_embedding_type": ("absolute", None)},
        prefix="bert.",
    ),
}


def find_architecture(config: Config) -> Architecture:
    """The architecture of a config.json. Raises UnsupportedError for another `model_type`, or a setting unknown there.

    >>> find_architecture({"model_type": "mistral"}).name
    'llama'
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedError(f"the model_type {kind!r} cannot be written as GGUF; those that can: {known}")
    found = ARCHITECTURES[kind]
    for name, values in found.expected.items():
        if config.get(name) not in values:
            right = " or ".join(repr(value) for value in values if value is not None) or "none"
            raise UnsupportedError(
                f"{kind}: {name} is {config[name]!r}, which llama.cpp does not compute there; {right}"
            )
    _refuse_layers(config, found)
    _refuse_scale(config, found)
    return found


def _refuse_layers(config: Config, architecture: Architecture) -> None:
    """Which layers see only a window is fixed in llama.cpp."""
    kinds, period = config.get("layer_types"), architecture.pattern
    if not kinds:
        return
    every = "full_attention"
    fixed = [every if not period or (i + 1) % period == 0 else "sliding_attention" for i in range(len(kinds))]
    if list(kinds) != fixed:
        where = f"the last of {period} layers attends to everything" if period else "every layer attends to everything"
        raise UnsupportedError(f"{config['model_type']}: layer_types is {list(kinds)}; in llama.cpp {where}")


def _refuse_scale(config: Config, architecture: Architecture) -> None:
    """llama.cpp divides q·k by the square root of a width that it knows itself."""
    scalar = config.get("query_pre_attn_scalar")
    if scalar is None:
        return
    broad = config["num_hidden_layers"] == architecture.broad
    right = config["hidden_size"] // config["num_attention_heads"] if broad else config["head_dim"]
    if scalar != right:
        kind = config["model_type"]
        raise UnsupportedError(f"{kind}: query_pre_attn_scalar is {scalar}; llama.cpp computes it with {right}")


def settings(config: Config, architecture: Architecture) -> dict[str, int | float | bool | str]:
    """The keys that llama.cpp reads, without the architecture's name before them: {'block_count': 30, …}."""
    found: dict[str, Any] = {}
    for key, names in _KEYS.items():
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if value is not None:
            found[key] = value
    if architecture.name == "gpt2":
        found.setdefault("feed_forward_length", 4 * config["n_embd"])
    width, heads = found["embedding_length"], found["attention.head_count"]
    if architecture.name == "bert":
        return found | {"attention.causal": False}
    found.setdefault("attention.head_count_kv", heads)
    if architecture.name == "gpt2":
        return found
    share = _rope(config).get("partial_rotary_factor", 1.0)
    found["rope.dimension_count"] = int((config.get("head_dim") or width // heads) * share)
    return found | _rotary(config, architecture) | _window(config, architecture, found["context_length"])


# GGUF key <- the names that transformers has for it.
_KEYS: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "vocab_size": ("vocab_size",),
}


def _rope(config: Config) -> dict[str, Any]:
    """transformers 5 writes `rope_parameters`, for some models by the kind of layer; older ones `rope_scaling`."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = found.get("full_attention") or found
    beside = {name: config[name] for name in ("rope_theta", "partial_rotary_factor") if config.get(name) is not None}
    kind = found.get("rope_type") or found.get("type") or "default"
    return {"rope_theta": 10000.0} | beside | dict(found) | {"rope_type": kind}


def _rotary(config: Config, architecture: Architecture) -> dict[str, Any]:
    """Base and scaling of the rotary embedding."""
    rope = _rope(config)
    found: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if base := local.get("rope_theta") or config.get("rope_local_base_freq"):
        found["rope.freq_base_swa"] = float(base)
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = int(rope["original_max_position_embeddings"])
    if kind not in ("default", "linear", "yarn", "llama3"):
        known = "default, linear, yarn and llama3 can"
        raise UnsupportedError(f"{config['model_type']}: rope_type {kind!r} cannot be written; {known}")
    return found


def _window(config: Config, architecture: Architecture, context: int) -> dict[str, Any]:
    """A window that the architecture has, or the context cut to it: llama.cpp's llama and qwen attend to everything."""
    window = config.get("sliding_window")
    if architecture.pattern:
        return {"attention.sliding_window": int(window)} if window else {}
    if architecture.name == "phi3":
        return {"attention.sliding_window": int(window or 0), "rope.scaling.original_context_length": _original(config)}
    unused = config.get("use_sliding_window") is False
    return {"context_length": min(context, int(window))} if window and not unused else {}


def _original(config: Config) -> int:
    return int(config.get("original_max_position_embeddings") or config["max_position_embeddings"])


def rotary_factors(config: Config) -> Tensor | None:
    """What divides the frequencies of Llama 3.1 and later, float32 (head width / 2,); None where nothing does.

    Low frequencies are divided by `factor`, high ones by 1, those between by a value between (Llama 3.1's formula).
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    length = 2 * math.pi / frequency
    smooth = (original / length - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return torch.where(length < original / high, 1.0, torch.where(length > original / low, float(factor), between))
