"""A Hugging Face folder of a decoder as a Task: token ids in, the logits of the next token out, at every position."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ..export.model import Model
from ..export.shards import shard_files, weights_sha256
from ..runtime.errors import DataError, ModelError, UnsupportedError
from .data import Batch, Data
from .divergence import divergence
from .hugging_face import DECODERS, read_config, read_vocabulary, reading, refuse_unfilled
from .source import Task

# Tokens of a window, and how many windows calibrate, judge (4096 tokens: one is 0.02 points) and watch a training.
_WINDOW, _CALIBRATION, _JUDGED, _WATCHED = 128, 128, 32, 16
# Windows of a batch.
_BATCH = 8
# What travels beside the weights, where the folder has it.
_ASSETS = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")
_EXAMPLE = "An example of the text that a language model goes on with, long enough to be cut in two, and no longer."


class TextDecoder(nn.Module):
    """The logits of transformers' causal language model, all positions at once, no cache."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: int64 [batch, sequence] -> float32 [batch, sequence, vocabulary]."""
        return self.decoder(input_ids=input_ids, use_cache=False).logits


def read_decoder(folder: Path, texts: Path | None) -> Task:
    """Read the folder and, from `texts` (running text), data to calibrate, to train and to judge by.

    The text is cut into windows of 128 tokens, or as many as the model has positions for, each with the token at its
    start that the tokenizer puts there. What is judged was never calibrated or trained on: every other window judges
    (32 of them) or validates (16), the rest trains, and the first 128 of it calibrate. Only safetensors are read.
    GPT-2's Conv1D layers become Linear ones, so their weights are [out, in] as everywhere.
    Raises ModelError for a folder that is incomplete or damaged or holds NaN, UnsupportedError for another kind of
    model, DataError for a text that is missing or too short.

    >>> read_decoder(Path("SmolLM2-135M"), Path("texts.txt")).model.outputs
    ('logits',)
    """
    config = read_config(folder, DECODERS)
    shard_files(folder)
    tokenizer = read_vocabulary(folder, config)
    module = TextDecoder(_module(folder, config)).eval()
    longest = config.max_position_embeddings
    length = min(_WINDOW, longest)
    windows = [] if texts is None else _windows(tokenizer, texts, length)
    ids = windows[0] if windows else tokenizer.encode(_EXAMPLE, add_special_tokens=False).ids
    half = min(len(ids) // 2, 8)
    model = Model(
        name=(folder.resolve() if folder.name == ".." else folder.absolute()).name,  # a link keeps its own name
        module=module,
        example={"input_ids": torch.tensor([ids[:half], ids[half : 2 * half]])},
        outputs=("logits",),
        axes={"input_ids": {0: "batch", 1: "sequence"}},
        assets={name: (folder / name).read_bytes() for name in _ASSETS if (folder / name).is_file()},
        source={"kind": "hugging-face", "sha256": weights_sha256(folder)},
        lengths={"sequence": (longest,)} if longest < _WINDOW else {},
    )
    if not windows:
        return Task(model, Data())
    held, learned = windows[1::2], windows[0::2]
    judged, watched = held[:_JUDGED], held[_JUDGED : _JUDGED + _WATCHED]
    learned += held[_JUDGED + _WATCHED :]
    data = Data(
        calibration=_batches(learned[:_CALIBRATION]),
        training=lambda epoch: _shuffled(learned, epoch),
        score=divergence(model, _batches(judged, 1)),
        validation=divergence(model, _batches(watched, 1)) if watched else None,
    )
    return Task(model, data)


def _module(folder: Path, config: Any) -> nn.Module:
    """The model with its weights, in float32 and in evaluation mode."""
    architecture = (config.architectures or ["?"])[0]
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise UnsupportedError(f"{folder} is a {architecture}; expected a causal language model")
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise UnsupportedError(f"{folder} scales attention by the index of its layer, which cannot be read yet")
    kind: Any = AutoModelForCausalLM
    with reading(folder):
        module, loaded = kind.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, attn_implementation="eager", output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    refuse_unfilled(folder, loaded)
    for name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{folder}: the weight {name!r} holds a NaN or an infinity; copy or train the model again")
    return _with_linear(module.eval())


def _with_linear(module: nn.Module) -> nn.Module:
    """The module, changed in place: its Conv1D layers, whose weights are [in, out], as Linear ones."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, Conv1D):
            linear = nn.Linear(layer.nx, layer.nf, device="meta")
            linear.weight = nn.Parameter(layer.weight.detach().T.contiguous())
            linear.bias = layer.bias
            module.set_submodule(name, linear.eval())
    return module


def _windows(tokenizer: Tokenizer, texts: Path, length: int) -> list[list[int]]:
    """The text's tokens in windows of one length, each window once."""
    try:
        text = texts.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{texts} cannot be read as text: {error}; save it as UTF-8") from error
    start = _start(tokenizer)
    stream, step = tokenizer.encode(text, add_special_tokens=False).ids, length - len(start)
    cuts = range(0, len(stream) - step + 1, step)
    windows = [list(window) for window in dict.fromkeys((*start, *stream[cut : cut + step]) for cut in cuts)]
    if len(windows) < 2:
        found = f"{len(stream)} tokens in {len(windows)} different windows of {length}"
        raise DataError(f"{texts} has {found}; expected a text for at least 2 windows")
    return windows


def _start(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the tokenizer puts before a text: Llama's and Gemma's beginning of a sequence, nothing else's."""
    ids, plain = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    at = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
    return ids[:at]


def _batches(windows: Sequence[Sequence[int]], size: int = _BATCH) -> list[Batch]:
    return [{"input_ids": np.array(windows[i : i + size], np.int64)} for i in range(0, len(windows), size)]


def _shuffled(windows: Sequence[Sequence[int]], epoch: int) -> Iterator[Batch]:
    """All windows in an order of the epoch's own, cut into batches."""
    order: list[int] = np.random.default_rng(epoch).permutation(len(windows)).tolist()
    yield from _batches([windows[i] for i in order])
