"""What the tests of language models share: small decoders of every kind, as transformers itself saves them."""

import ast
import json
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from edgepress.compress.decoder import read_decoder
from edgepress.compress.source import Task

# The patterns by which the tokenizers of these families split text before byte pairs are merged.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3, QWEN2 = _SPLIT % "{1,3}", _SPLIT % ""
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What each kind of model comes with, where it is not `llama-bpe`.
TOKENIZERS = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2", "gemma": "spm", "gemma2": "spm",
              "gemma3_text": "gemma", "mistral": "spm", "phi3": "spm"}  # fmt: skip


def write_decoder(folder: Path, kind: str = "llama", **settings: Any) -> Any:
    """Save a decoder with random weights and its tokenizer; returns transformers' own model, in evaluation mode.

    2 layers, 64 wide, 4 heads (2 of keys and values), 128 neurons, 512 tokens. `tokenizer` names another one than the
    kind comes with: llama-bpe, qwen2, gpt-2, spm, gemma.
    """
    coder = trained(settings.pop("tokenizer", TOKENIZERS.get(kind, "llama-bpe")))
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    if kind == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    if kind.startswith("gemma") or kind == "qwen3":
        sizes |= {"head_dim": 16} | ({} if kind in ("qwen3", "gemma") else {"query_pre_attn_scalar": 16})
    if kind == "phi3":
        sizes |= {"original_max_position_embeddings": 256}
    size = coder.get_vocab_size()
    sizes |= {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | settings)).eval()
        for weight in model.parameters():  # larger than fresh ones, so that no two tokens are all but alike
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    coder.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return model


@cache
def trained(kind: str, size: int = 512) -> Tokenizer:
    """A tokenizer of byte pairs, trained on docstrings of the standard library."""
    if kind in ("spm", "gemma"):
        return _sentencepiece(kind, size)
    coder = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt-2")
    if kind == "gpt-2":
        coder.pre_tokenizer = whole
    else:
        split = pre_tokenizers.Split(Regex({"llama-bpe": LLAMA3, "qwen2": QWEN2}[kind]), "isolated")
        coder.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
        coder.normalizer = normalizers.NFC() if kind == "qwen2" else None  # pyright: ignore[reportAttributeAccessIssue]
    coder.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    coder.train_from_iterator(docstrings(), trainer)
    if kind == "llama-bpe":
        coder.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return coder


def _sentencepiece(kind: str, size: int) -> Tokenizer:
    """As sentencepiece's models look in tokenizer.json: `▁` for spaces, bytes for what no token says."""
    coder = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    coder.pre_tokenizer = pre_tokenizers.Metaspace()  # for the training alone, so that no token spans two words
    first = [decoders.Strip(" ", 1, 0)] if kind == "spm" else []
    coder.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *first])
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL, "<unk>", *octets], show_progress=False)
    coder.train_from_iterator(docstrings(), trainer)
    raw = json.loads(coder.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] not in octets]
    raw["pre_tokenizer"] = None
    raw["model"]["merges"] = list(_all_merges(raw["model"]))
    coder = Tokenizer.from_str(json.dumps(raw))
    coder.normalizer = normalizers.Sequence(steps) if kind == "spm" else steps[1]
    if kind == "gemma":
        coder.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    coder.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return coder


def _all_merges(model: dict[str, Any]) -> Iterator[list[str]]:
    """Every way in which two tokens make a third, as the converters from sentencepiece write them."""
    for left, right in model["merges"]:
        merged = left + right
        for cut in range(1, len(merged)):
            if merged[:cut] in model["vocab"] and merged[cut:] in model["vocab"]:
                yield [merged[:cut], merged[cut:]]


@cache
def docstrings() -> tuple[str, ...]:
    """Prose that every Python brings."""
    found = []
    for name in (
        "argparse",
        "asyncio/streams",
        "decimal",
        "difflib",
        "email/message",
        "random",
        "statistics",
        "typing",
    ):
        tree = ast.parse((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8"))
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        found += [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]
    return tuple(found)


def read_tiny(folder: Path, kind: str = "llama", texts: int = 12, **settings: Any) -> Task:
    """The task of a small decoder that is written below `folder`, with some docstrings to calibrate and judge by."""
    write_decoder(folder / kind, kind, **settings)
    (folder / "texts.txt").write_text("\n\n".join(docstrings()[:texts]), encoding="utf-8")
    return read_decoder(folder / kind, folder / "texts.txt")
