"""A Hugging Face folder, read with care: config.json, safetensors, tokenizer.json. A text encoder's is whole here.

What decoders need beside the files is in decoder.py.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging

from ..export.shards import shard_files, weights_sha256
from ..runtime.errors import EdgepressError, ModelError, UnsupportedError

# Model types whose masks and positions were traced with free axes and compared with the original.
ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# Causal language models, read by decoder.py.
DECODERS = ("gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")
# Their positions start behind the padding index, so that many fewer are left for tokens.
_OFFSET_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}
# The ways to pool that can be read, by the names that sentence-transformers gives them.
_POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    `module` is transformers' own model, in evaluation mode and with "eager" attention. `labels` are a sequence
    classifier's classes, and empty for an encoder, whose last hidden states are pooled: `pooling` is mean or cls, and
    `normalize` says whether the result has length 1. `sha256` is that of the weights.
    """

    module: nn.Module
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    pooling: str
    normalize: bool
    sha256: str


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the folder; no pickle is loaded, and no weight is left to chance.

    The tokenizer truncates to what the model has positions for, and pads to the longest text of a batch. Raises
    ModelError where a file is missing or damaged, or where they do not belong together; UnsupportedError for another
    kind of model.

    >>> read_checkpoint(Path("all-MiniLM-L6-v2")).pooling
    'mean'
    """
    config = read_config(folder, ENCODERS)
    shard_files(folder)
    tokenizer = _tokenizer(folder, config)
    module, labels = _module(folder, config)
    pooling, normalize = read_head(folder)
    return Checkpoint(module, tokenizer, labels, pooling, normalize, weights_sha256(folder))


def model_type(folder: Path) -> str | None:
    """What the folder's config.json says that it holds, as 'bert'; None where it says nothing."""
    return read_json(folder / "config.json").get("model_type")


def read_config(folder: Path, kinds: Sequence[str]) -> Any:
    """The folder's config.json as transformers reads it.

    Raises ModelError where it or tokenizer.json is missing, UnsupportedError for a model type that is none of `kinds`.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}; expected a Hugging Face folder with it")
    kind = model_type(folder)
    if kind not in kinds:
        known = ", ".join((*ENCODERS, *DECODERS))
        raise UnsupportedError(f"{folder} has the model_type {kind!r}; those that can be read: {known}")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with reading(folder / "config.json"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def read_vocabulary(folder: Path, config: Any) -> Tokenizer:
    """The folder's tokenizer. Raises ModelError where it cannot be read or has more tokens than the model's table."""
    with reading(folder / "tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if tokenizer.get_vocab_size() > config.vocab_size:
        found = f"{tokenizer.get_vocab_size()} tokens, the model's table holds {config.vocab_size}"
        raise ModelError(f"{folder / 'tokenizer.json'} has {found}; bring the two that belong together")
    return tokenizer


def _tokenizer(folder: Path, config: Any) -> Tokenizer:
    tokenizer = read_vocabulary(folder, config)
    pad = config.pad_token_id or 0
    longest = config.max_position_embeddings - (pad + 1 if config.model_type in _OFFSET_POSITIONS else 0)
    with reading(folder / "sentence_bert_config.json"):
        asked = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        tokenizer.enable_truncation(min(longest, asked or longest))
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]")
    return tokenizer


def _module(folder: Path, config: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its weights, and the classes that it tells apart."""
    architecture = (config.architectures or ["Model"])[0]
    classifies = architecture.endswith("ForSequenceClassification")
    if not classifies and not architecture.endswith(("Model", "ForMaskedLM")):
        raise UnsupportedError(f"{folder} is a {architecture}; expected a sentence encoder or a sequence classifier")
    kind = AutoModelForSequenceClassification if classifies else AutoModel
    with reading(folder):
        module, loaded = kind.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, attn_implementation="eager", output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    refuse_unfilled(folder, loaded, may_miss=["pooler."], counts=[".layer."])
    return module.eval(), tuple(config.id2label.get(i, str(i)) for i in range(config.num_labels)) if classifies else ()


def refuse_unfilled(folder: Path, loaded: Any, *, may_miss: Sequence[str] = (), counts: Sequence[str] = ("",)) -> None:
    """transformers fills weights that are missing, or of another shape, with random numbers, and drops what is left.

    `may_miss` begins the names of those that may be missing, as an encoder's own pooler, for its states are pooled
    here; one of `counts` is in those that must not be left, for heads of other tasks may be.
    """
    missing = {key for key in loaded["missing_keys"] if not key.startswith(tuple(may_miss))}
    misshapen = {key for key, *_ in loaded["mismatched_keys"]}
    left = {key for key in loaded["unexpected_keys"] if any(part in key for part in counts)}
    for keys, problem in ((missing, "are missing"), (misshapen, "have another shape"), (left, "would be left out")):
        if keys:
            found = f"{folder}: {len(keys)} weights {problem}, as {min(keys)!r}"
            raise ModelError(f"{found}; bring the config.json and the weights that were saved together")


def read_head(folder: Path) -> tuple[str, bool]:
    """Pooling and normalization, as sentence-transformers writes them down; mean pooling where it wrote nothing."""
    with reading(folder / "modules.json"):
        modules = {m["type"].rpartition(".")[2]: folder / m["path"] for m in read_json(folder / "modules.json", list)}
    if unknown := set(modules) - {"Transformer", "Pooling", "Normalize"}:
        raise UnsupportedError(f"{folder / 'modules.json'} has a {min(unknown)} module, which cannot be read yet")
    path = modules.get("Pooling", folder / "1_Pooling") / "config.json"
    settings = read_json(path)
    modes = [name.removeprefix("pooling_mode_") for name, on in settings.items() if "pooling_mode_" in name and on]
    modes = [settings["pooling_mode"]] if "pooling_mode" in settings else modes
    if len(modes) > 1 or not set(modes) <= set(_POOLINGS):
        raise UnsupportedError(f"{path} pools by {', '.join(map(str, modes))}; mean and cls can be read")
    return _POOLINGS[modes[0]] if modes else "mean", "Normalize" in modules


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds, an object or a list; empty where there is no file."""
    if not path.is_file():
        return kind()
    with reading(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise TypeError(f"it holds a {type(found).__name__}, expected a {kind.__name__}")
        return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes the libraries raise (tokenizers: plain Exception) is one line about `path`."""
    try:
        yield
    except EdgepressError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        reason = text if " " in text else f"{type(error).__name__} {text}"
        raise ModelError(f"{path} cannot be read: {reason}; save or copy it again") from error
