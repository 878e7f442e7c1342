"""A Hugging Face folder of a text encoder (BERT class) as a Task: config.json, safetensors, tokenizer.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging

from ..export.model import Model
from ..runtime.artifact import describe
from ..runtime.errors import DataError, ModelError, UnsupportedError
from .data import Batch, Data
from .fidelity import fidelity
from .source import Task

# Model types whose masks and positions were traced with free axes and compared with the original.
ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# Enough to see the outliers of activations, and to tell 0.99 from 0.98; more only takes time.
_CALIBRATION, _JUDGED, _WATCHED = 128, 256, 128
# A training batch, and how many of them are sorted by length together.
_BATCH, _SORTED = 32, 16


@dataclass(frozen=True)
class _Head:
    """What comes after the last hidden state: a pooled and perhaps normalized embedding."""

    pooling: str
    normalize: bool


class TextEmbedding(nn.Module):
    """`normalize(pool(encoder(ids)))`; padding takes no part in it."""

    def __init__(self, encoder: nn.Module, head: _Head) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: int64 [batch, sequence] -> float32 [batch, width]."""
        states = self.encoder(input_ids=input_ids, attention_mask=_bias(attention_mask)).last_hidden_state
        if self.head.pooling == "cls":
            pooled = states[:, 0]
        else:
            held = attention_mask[..., None].to(states.dtype)
            pooled = (states * held).sum(1) / held.sum(1).clamp_min(1e-9)
        return nn.functional.normalize(pooled, dim=-1) if self.head.normalize else pooled


class TextClassifier(nn.Module):
    """The logits of a sequence classifier."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: int64 [batch, sequence] -> float32 [batch, classes]."""
        return self.classifier(input_ids=input_ids, attention_mask=_bias(attention_mask)).logits


def _bias(attention_mask: Tensor) -> Tensor:
    """float32 [batch, 1, 1, sequence]: 0 where a token is, else so low that softmax gives it nothing.

    transformers' own way from two axes to four cannot be traced. With "eager" attention this bias is one addition in
    the graph; torch's fused attention would be exported with a guard for rows without any token, 5 % of the time.
    """
    return (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min


def read_encoder(folder: Path, texts: Path | None) -> Task:
    """Read the folder and, from `texts` (one sample a line), data to calibrate, to train and to judge by.

    What is judged was never calibrated or trained on: every other line judges (256 of them) or validates (128), the
    rest trains, and the first 128 of it calibrate. Only safetensors are read.
    Raises ModelError for a folder that is incomplete or damaged, UnsupportedError for another kind of model,
    DataError for texts that are missing or too few.
    """
    config = _config(folder)
    tokenizer = _tokenizer(folder, config)
    module, output, assets = _module(folder, config)
    lines = [] if texts is None else read_lines(texts)
    example = _encode(tokenizer, lines[:2] or ["An example.", "A second, somewhat longer example of a text."])
    model = Model(
        name=folder.resolve().name,
        module=module,
        example={name: torch.from_numpy(array) for name, array in example.items()},
        outputs=(output,),
        axes={name: {0: "batch", 1: "sequence"} for name in example},
        assets={"tokenizer.json": tokenizer.to_str().encode()} | assets,
        source={"kind": "hugging-face", "sha256": describe(_weights(folder)).sha256},
    )
    if not lines:
        return Task(model, Data())
    held = lines[1::2]
    judged, watched = held[:_JUDGED], held[_JUDGED : _JUDGED + _WATCHED]
    apart = {*judged, *watched}
    learned = [line for line in (*lines[0::2], *held[_JUDGED + _WATCHED :]) if line not in apart]
    data = Data(
        calibration=[_encode(tokenizer, learned[i : i + 8]) for i in range(0, min(len(learned), _CALIBRATION), 8)],
        training=lambda epoch: _shuffled(tokenizer, learned, epoch),
        score=fidelity(model, [_encode(tokenizer, [line]) for line in judged], output),
        validation=fidelity(model, [_encode(tokenizer, [line]) for line in watched], output) if watched else None,
    )
    return Task(model, data)


def _shuffled(tokenizer: Tokenizer, lines: Sequence[str], epoch: int) -> Iterator[Batch]:
    """All lines in an order of the epoch's own, cut into batches; lines of like length meet, so that few are padded."""
    order: list[int] = np.random.default_rng(epoch).permutation(len(lines)).tolist()
    for start in range(0, len(order), _BATCH * _SORTED):
        pool = sorted((lines[i] for i in order[start : start + _BATCH * _SORTED]), key=len)
        cuts = list(range(0, len(pool), _BATCH))
        np.random.default_rng((epoch, start)).shuffle(cuts)
        yield from (_encode(tokenizer, pool[cut : cut + _BATCH]) for cut in cuts)


def read_lines(texts: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises DataError where it is missing, not UTF-8, or too short."""
    try:
        lines = [line.strip() for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{texts} cannot be read as text: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{texts} has {len(lines)} lines with text; expected one sample a line, at least 2")
    return lines


def _config(folder: Path) -> Any:
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}; expected a Hugging Face folder with it")
    _weights(folder)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {_short(error)}") from error
    if config.model_type not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise UnsupportedError(f"{folder} is a {config.model_type} model; the encoders that can be read are: {known}")
    return config


def _weights(folder: Path) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} has no model.safetensors; pickled weights (.bin, .pt) are never loaded: convert them")


def _tokenizer(folder: Path, config: Any) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    # positions of RoBERTa's kind start behind the padding index
    offset = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "mpnet" else 0
    longest = config.max_position_embeddings - offset
    settings = _json(folder / "sentence_bert_config.json")
    tokenizer.enable_truncation(min(longest, settings.get("max_seq_length") or longest))
    pad = config.pad_token_id or 0
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]")
    return tokenizer


def _module(folder: Path, config: Any) -> tuple[nn.Module, str, dict[str, bytes]]:
    """The module, its output's name, and what it needs to be used."""
    architecture = (config.architectures or ["Model"])[0]
    classifies = architecture.endswith("ForSequenceClassification")
    if not classifies and not architecture.endswith(("Model", "ForMaskedLM")):
        raise UnsupportedError(f"{folder} is a {architecture}; expected a sentence encoder or a sequence classifier")
    kind = AutoModelForSequenceClassification if classifies else AutoModel
    try:
        inner = kind.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, attn_implementation="eager",
        ).eval()  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder} cannot be loaded: {_short(error)}") from error
    if classifies:
        labels = [config.id2label[i] for i in range(config.num_labels)]
        return TextClassifier(inner), "logits", {"labels.json": json.dumps(labels).encode()}
    return TextEmbedding(inner, _head(folder)), "sentence_embedding", {}


def _head(folder: Path) -> _Head:
    """Pooling and normalization, as sentence-transformers writes them down; mean pooling where it wrote nothing."""
    modules = _json(folder / "modules.json", [])
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise UnsupportedError(f"{folder / 'modules.json'} has a {sorted(unknown)[0]} module, which cannot be read yet")
    pooling = next((folder / m["path"] for m in modules if str(m["type"]).endswith("Pooling")), folder / "1_Pooling")
    settings = _json(pooling / "config.json")
    modes = [name.removeprefix("pooling_mode_") for name, on in settings.items() if "pooling_mode_" in name and on]
    if modes not in ([], ["mean_tokens"], ["cls_token"]):
        raise UnsupportedError(f"{pooling} pools by {', '.join(modes)}; mean and cls can be read")
    return _Head("cls" if modes == ["cls_token"] else "mean", "Normalize" in kinds)


def _json(path: Path, missing: Any = None) -> Any:
    if not path.is_file():
        return {} if missing is None else missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    encodings = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([e.ids for e in encodings], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
    }


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
