"""A Hugging Face folder of a text encoder as a Task: texts in, one embedding or the logits of a classifier out."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..export.model import Model
from ..runtime.errors import DataError
from .data import Batch, Data, Score
from .fidelity import fidelity
from .hugging_face import read_checkpoint
from .source import Task

# Enough to see the outliers of activations, and to tell 0.99 from 0.98; more only takes time.
_CALIBRATION, _JUDGED, _WATCHED = 128, 256, 128
# Tokens from which on a format of fixed shapes need not have them all.
_LONG = 128
# A training batch, and how many of them are sorted by length together.
_BATCH, _SORTED = 32, 16


class TextEmbedding(nn.Module):
    """`normalize(pool(encoder(ids)))`; padding takes no part in it."""

    def __init__(self, encoder: nn.Module, *, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.normalize = encoder, pooling, normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: int64 [batch, sequence] -> float32 [batch, width]."""
        states = self.encoder(input_ids=input_ids, attention_mask=_bias(attention_mask)).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            held = attention_mask[..., None].to(states.dtype)
            pooled = (states * held).sum(1) / held.sum(1).clamp_min(1e-9)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


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
    found = read_checkpoint(folder)
    tokenizer = found.tokenizer
    if found.labels:
        module, output = TextClassifier(found.module), "logits"
    else:
        module = TextEmbedding(found.module, pooling=found.pooling, normalize=found.normalize)
        output = "sentence_embedding"
    lines = [] if texts is None else read_lines(texts)
    example = _encode(tokenizer, lines[:2] or ["An example.", "A second, somewhat longer example of a text."])
    labels = {"labels.json": json.dumps(found.labels).encode()} if found.labels else {}
    model = Model(
        name=(folder.resolve() if folder.name == ".." else folder.absolute()).name,  # a link keeps its own name
        module=module,
        example={name: torch.from_numpy(array) for name, array in example.items()},
        outputs=(output,),
        axes={name: {0: "batch", 1: "sequence"} for name in example},
        assets={"tokenizer.json": tokenizer.to_str().encode()} | labels,
        source={"kind": "hugging-face", "sha256": found.sha256},
        lengths=_lengths(tokenizer),
    )
    if not lines:
        return Task(model, Data())
    held = lines[1::2]
    judged, watched = held[:_JUDGED], held[_JUDGED : _JUDGED + _WATCHED]
    learned = [*lines[0::2], *held[_JUDGED + _WATCHED :]]
    data = Data(
        calibration=_by_length(tokenizer, learned[:_CALIBRATION]),
        training=lambda epoch: _shuffled(tokenizer, learned, epoch),
        score=_fidelity(model, tokenizer, judged),
        validation=_fidelity(model, tokenizer, watched) if watched else None,
    )
    return Task(model, data)


def _lengths(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """For formats of fixed shapes: what the model has positions for, where that is little; else their own default."""
    longest = (tokenizer.truncation or {}).get("max_length", _LONG)
    return {"sequence": (longest,)} if longest < _LONG else {}


def _fidelity(model: Model, tokenizer: Tokenizer, lines: Sequence[str]) -> Score:
    """Line by line, as a user sends them; the float original computes lines of like length together."""
    batches = [_encode(tokenizer, [line]) for line in lines]
    return fidelity(model, batches, model.outputs[0], together=_BATCH)


def _by_length(tokenizer: Tokenizer, lines: Sequence[str]) -> list[Batch]:
    """Batches of 8 lines of like length: what pads them tells nothing of the model, and takes as long as text."""
    ordered = sorted(lines, key=len)
    return [_encode(tokenizer, ordered[i : i + 8]) for i in range(0, len(ordered), 8)]


def _shuffled(tokenizer: Tokenizer, lines: Sequence[str], epoch: int) -> Iterator[Batch]:
    """All lines in an order of the epoch's own, cut into batches; lines of like length meet, so that few are padded."""
    order: list[int] = np.random.default_rng(epoch).permutation(len(lines)).tolist()
    for start in range(0, len(order), _BATCH * _SORTED):
        pool = sorted((lines[i] for i in order[start : start + _BATCH * _SORTED]), key=len)
        cuts = list(range(0, len(pool), _BATCH))
        np.random.default_rng((epoch, start)).shuffle(cuts)
        yield from (_encode(tokenizer, pool[cut : cut + _BATCH]) for cut in cuts)


def read_lines(texts: Path) -> list[str]:
    """The lines of a text file, each once, none empty. Raises DataError where it is missing, not UTF-8 or too short."""
    try:
        lines = [line.strip() for line in texts.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{texts} cannot be read as text: {error}; save it as UTF-8, one sample a line") from error
    lines = list(dict.fromkeys(line for line in lines if line))
    if len(lines) < 2:
        raise DataError(f"{texts} has {len(lines)} different lines with text; expected a sample a line, at least 2")
    return lines


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    encodings = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([e.ids for e in encodings], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
    }
