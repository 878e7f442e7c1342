"""GGUF: a Hugging Face model as the one file that llama.cpp runs, its tokenizer inside.

A folder is written tensor by tensor, without a module (`export_folder`); a model that passes have changed from its
module (`write`). Both then take llama.cpp's own types, where the model asks for them.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..runtime.artifact import Artifact, Step
from ..runtime.errors import UnsupportedError, UsageError
from .formats import TOLERANCE, Draft, build
from .gguf_blocks import BLOCKS, block_type, packed
from .gguf_quantize import Planned, quantize
from .gguf_tokenizer import read_tokenizer
from .gguf_write import DTYPES, FLOATS, UNPOOLED, Pooled, write_gguf
from .model import FLOATING, Ggml, Model
from .qtensor import QTensor
from .quantized import BlockEmbedding, BlockLinear
from .shards import Shards, Tensors, weights_sha256

FILE, RAW = "model.gguf", "raw.gguf"
Tell = Callable[[str], None]
_IN_BLOCKS = (BlockLinear, BlockEmbedding)


def write(model: Model, folder: Path) -> Path:
    """Write `model.gguf` into `folder` and return its path.

    Raises UnsupportedError where the module is none of transformers', or where a pass left what GGUF cannot say.
    """
    with _laid_out(model, folder) as (tensors, beside, pooled):
        _write(tensors, beside, folder / FILE, model.ggml, pooled)
    return folder / FILE


def raw(model: Model, folder: Path) -> Path:
    """The model's floats as they are, to be quantized in one way or another."""
    with _laid_out(model, folder) as (tensors, beside, pooled):
        write_gguf(tensors, beside, folder / RAW, pooled=pooled)
    return folder / RAW


def hollow(model: Model, folder: Path) -> Path:
    """A file of the model's shapes without its weights, to plan with."""
    with _laid_out(model, folder) as (tensors, beside, pooled):
        write_gguf(tensors, beside, folder / RAW, pooled=pooled, hollow=True)
    return folder / RAW


@contextmanager
def _laid_out(model: Model, folder: Path) -> Iterator[tuple["Module", Path, Pooled]]:
    """The model as tensors, a folder with its tokenizer and configuration, and how it pools."""
    inner = inner_module(model.module)
    if inner is None:
        raise UnsupportedError(f"{model.name} cannot be written as GGUF; expected a Hugging Face folder as the model")
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        tensors = Module(inner)
        if model.ggml.type not in ("", *FLOATS):
            _refuse_blocks(tensors)
        for name, content in model.assets.items():
            (Path(beside) / name).write_bytes(content)
        (Path(beside) / "config.json").write_text(json.dumps(tensors.config), encoding="utf-8")
        pooled = Pooled(getattr(model.module, "pooling", ""), bool(getattr(model.module, "normalize", False)))
        yield tensors, Path(beside), pooled


def inner_module(module: nn.Module) -> nn.Module | None:
    """transformers' own module within a task's; None where there is none."""
    parts = (getattr(module, name, None) for name in ("decoder", "encoder"))
    return next((part for part in parts if isinstance(part, nn.Module) and hasattr(part, "config")), None)


@dataclass(frozen=True)
class Module:
    """A module of transformers as the tensors of a checkpoint."""

    module: Any

    @property
    def config(self) -> Mapping[str, Any]:
        """As the module has it; `tie_word_embeddings` only where table and head still hold the same weights."""
        config = self.module.config.to_dict()
        return config if self._tied else config | {"tie_word_embeddings": False}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Raises UnsupportedError where a layer is none that a checkpoint has."""
        for name, part in self.module.named_modules():
            if type(part).__module__.startswith("edgepress") and not isinstance(part, _IN_BLOCKS):
                raise UnsupportedError(f"{name} is a {type(part).__name__}, which GGUF cannot say; leave that pass out")
        return {name: tuple(self._turned(name, held).shape) for name, held in self._tensors.items()}

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Raises UnsupportedError for blocks that GGUF has not."""
        blocks = self._blocks
        return {
            name: block_type(name, blocks[name]) if name in blocks else DTYPES.get(t.dtype, str(t.dtype))
            for name, t in self._tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """A tensor; of one in blocks the bytes of each row, uint8 (rows, bytes).

        GPT-2's own layers hold their weights as [in, out]; where a Linear took their place they are turned back.
        """
        held = packed(name, self._blocks[name]) if name in self._blocks else self._tensors[name].detach()
        return self._turned(name, held)

    def _turned(self, name: str, held: Tensor) -> Tensor:
        layer, _, kind = name.rpartition(".")
        linear = isinstance(self.module.get_submodule(layer), nn.Linear | BlockLinear)
        turned = kind == "weight" and layer != "lm_head" and linear
        return held.T if turned and self.module.config.model_type == "gpt2" else held

    @cached_property
    def _blocks(self) -> Mapping[str, QTensor]:
        """The weights that are in blocks, by the names that a checkpoint has for them."""
        named = self.module.named_modules()
        return {f"{name}.weight": part.weight for name, part in named if isinstance(part, _IN_BLOCKS)}

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        """All tensors by a checkpoint's names, in their order; of those in blocks the integers."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.module.state_dict().items():
            layer, _, kind = name.rpartition(".")
            if f"{layer}.weight" not in self._blocks or kind == "bias":
                found[name] = tensor
            elif kind == "values":
                found[f"{layer}.weight"] = tensor
        return found

    @cached_property
    def _tied(self) -> bool:
        """Whether one tensor can be both the table of tokens and the head."""
        table, head = (getattr(self.module, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output"))
        if table is None or head is None or table.weight is head.weight:
            return True
        a, b = (w.dequantize() if isinstance(w := part.weight, QTensor) else w for part in (table, head))
        return torch.equal(a, b)


def _refuse_blocks(tensors: "Module") -> None:
    """llama.cpp's own rounding starts from floats."""
    for name, kind in tensors.dtypes.items():
        if kind in BLOCKS:
            raise UnsupportedError(f"{name} is {kind} already, and ggml rounds floats; leave ggml out, or weight_only")


def _write(
    tensors: Tensors, tokenizer: Path, path: Path, ggml: Ggml, pooled: Pooled, tell: Tell = lambda text: None
) -> list[Planned]:
    """Write the floats, and quantize them where a type of llama.cpp's is asked for."""
    if ggml.type in ("", *FLOATS):
        if ggml.types or ggml.importance:
            raise UsageError(
                "tensors of a type of their own, or an importance matrix, go with a quantized type: Q4_K_M"
            )
        write_gguf(tensors, tokenizer, path, type=ggml.type, pooled=pooled, tell=tell)
        return []
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        floats = Path(beside) / RAW
        write_gguf(tensors, tokenizer, floats, pooled=pooled, tell=tell)
        tell(f"quantizing to {ggml.type}")
        return quantize(floats, path, ggml.type, types=ggml.types, importance=ggml.importance)


def export_folder(
    shards: Shards,
    out: Path,
    *,
    ggml: Ggml = FLOATING,
    pooled: Pooled = UNPOOLED,
    force: bool = False,
    tell: Tell = lambda text: None,
) -> tuple[Artifact, list[Planned]]:
    """Write a Hugging Face folder as the artifact `out`; memory stays near one tensor, however large the model is.

    Returns what each tensor was quantized to, too; nothing for floats. Raises what `write_gguf` and `quantize` raise.

    >>> export_folder(read_shards(Path("smollm")), Path("out/smollm"), ggml=Ggml("Q4_K_M"))[0].format
    'gguf'
    """
    planned: list[Planned] = []
    folder = shards.folder

    def write_file(into: Path) -> Path:
        planned.extend(_write(shards, folder, into / FILE, ggml, pooled, tell))
        tell("running the golden samples")
        return into / FILE

    coder = read_tokenizer(folder)
    history = (Step("ggml", {"type": ggml.type, "types": dict(ggml.types)}),) if ggml.type else ()
    source = {"kind": "hugging-face", "sha256": weights_sha256(folder)}
    assets = {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
    draft = Draft(
        folder.resolve().name, "gguf", write_file, _samples(shards, coder), assets,
        TOLERANCE["float32" if ggml.type in ("", *FLOATS) else "quantized"], history, source,
    )  # fmt: skip
    return build(draft, out, force=force), planned


def _samples(shards: Shards, coder: Tokenizer) -> list[dict[str, np.ndarray]]:
    """Token ids to run a file on: one text, and two of one length."""
    coder.no_padding()
    ids = coder.encode(_TEXT).ids
    length = min(16, len(ids) // 2, int(shards.config.get("max_position_embeddings", 16)))
    rows = np.array([ids[:length], ids[length : 2 * length]], np.int64)
    cases = [{"input_ids": rows[:1]}, {"input_ids": rows}]
    if shards.config["model_type"] == "bert":
        cases = [case | {"attention_mask": np.ones_like(case["input_ids"])} for case in cases]
    return cases


_TEXT = "The quick brown fox jumps over the lazy dog. " * 3
