"""Write a GGUF file: metadata, tokenizer, and tensors one at a time, so that memory stays near one tensor.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the names of tensors and keys come from the official
`gguf` package.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from ..runtime.errors import ModelError, UnsupportedError, UsageError
from ..runtime.ggml import NORMALIZE
from ..runtime.language import UNICODE
from .gguf_architectures import Architecture, find_architecture, rotary_factors, settings
from .gguf_blocks import BLOCK, BLOCKS
from .gguf_tokenizer import Vocabulary, read_vocabulary
from .shards import Tensors

# A float type that tensors are stored in as they come -> llama.cpp's number for a file of it.
FLOATS = {"F32": 0, "F16": 1, "BF16": 32}
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# Tables that llama.cpp adds to what it reads from another: they stay float32, as vectors do.
_KEPT = ("position_embd.weight", "token_types.weight")
ROTARY = "rope_freqs.weight"
_POOLING = {"": gguf.PoolingType.NONE, "mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}


@dataclass(frozen=True)
class Part:
    """A tensor of the file: its name there and in the source, its shape in PyTorch's order, its type."""

    name: str
    source: str
    shape: tuple[int, ...]
    type: str

    @property
    def bytes(self) -> int:
        size = int(np.prod(self.shape))
        if self.type in BLOCKS:
            return size // BLOCK * BLOCKS[self.type][1]
        return size * (4 if self.type == "F32" else 2)


@dataclass(frozen=True)
class Pooled:
    """How an encoder's states become one embedding: `mean`, `cls` or nothing, and whether it has length 1."""

    pooling: str = ""
    normalize: bool = False


UNPOOLED = Pooled()


def write_gguf(
    tensors: Tensors,
    tokenizer: Path,
    path: Path,
    *,
    type: str = "",  # noqa: A002
    pooled: Pooled = UNPOOLED,
    hollow: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Part]:
    """Write `tensors`, with the tokenizer that lies in the folder `tokenizer`; returns what was written.

    `type` is F32, F16 or BF16; empty takes the type that the weights are stored in. Vectors stay float32.
    `hollow` leaves the weights out: a file of holes, which takes no time and no disk, to plan with. Raises
    UnsupportedError for an architecture, a setting or a tokenizer that llama.cpp would compute otherwise, ModelError
    for weights that are missing, too many, misshapen or not finite.

    >>> write_gguf(read_shards(folder), folder, Path("smollm.gguf"))[0].name
    'token_embd.weight'
    """
    architecture = find_architecture(tensors.config)
    type = type or stored_type(tensors)  # noqa: A001
    parts = plan_parts(tensors, architecture, type)
    vocabulary = read_vocabulary(tokenizer, int(tensors.config["vocab_size"]))
    with _quiet():
        writer = gguf.GGUFWriter(path, architecture.name)
        try:
            _metadata(writer, tensors.config, architecture, file_number(parts, type))
            _tokenizer(writer, vocabulary, tokenizer)
            if architecture.name == "bert":
                _pooled(writer, tensors.config, pooled)
            _head(writer, parts)
            if hollow:
                _holes(writer, path, parts)
            else:
                _body(writer, parts, tensors, architecture, tell)
        finally:
            writer.close()
    return parts


def stored_type(tensors: Tensors) -> str:
    """The float type of the largest tensor that is none of blocks. Raises UnsupportedError where it is none."""
    dtypes = tensors.dtypes
    floats = {name: shape for name, shape in tensors.shapes.items() if dtypes[name] not in BLOCKS}
    largest = max(floats, key=lambda name: int(np.prod(floats[name])))
    if (stored := dtypes[largest]) not in FLOATS:
        raise UnsupportedError(f"{largest} is stored as {stored}; expected F32, F16 or BF16")
    return stored


def plan_parts(tensors: Tensors, architecture: Architecture, type: str) -> list[Part]:  # noqa: A002
    """What the file will hold, in the order in which it is written; nothing is read yet."""
    if type not in FLOATS:
        raise UsageError(f"a GGUF file is written as one of {', '.join(FLOATS)}, not {type!r}")
    names = part_names(tensors, architecture)
    _refuse_missing(names, tensors, architecture)
    parts, config, shapes, dtypes = [], tensors.config, tensors.shapes, tensors.dtypes
    for source, name in names.items():
        unread = torch.empty(shapes[source], device="meta")
        shape = tuple(architecture.changed(source, unread, config).shape)
        kept = len(shape) < 2 or name in _KEPT or name.endswith("_norm.weight")
        blocks = dtypes[source] if dtypes[source] in BLOCKS else ""
        if blocks and kept:
            raise UnsupportedError(f"{source} is {blocks}, and llama.cpp adds it as floats; exclude it")
        parts.append(Part(name, source, shape, blocks or ("F32" if kept else type)))
    if (factors := rotary_factors(config)) is not None:
        parts.append(Part(ROTARY, "", tuple(factors.shape), "F32"))
    return parts


def part_names(tensors: Tensors, architecture: Architecture) -> dict[str, str]:
    """Each tensor's name in the file, by its own; without those that are computed without."""
    config, blocks = tensors.config, _block_count(tensors.config)
    arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[architecture.name]
    known, found = gguf.get_tensor_name_map(arch, blocks), {}
    tied = config.get("tie_word_embeddings", architecture.name.startswith(("gemma", "gpt2")))
    for source in tensors.shapes:
        if source.endswith(architecture.dropped) or (source == "lm_head.weight" and tied):
            continue
        name = known.get_name(source.removeprefix(architecture.prefix), (".weight", ".bias"))
        if name is None and source == "lm_head.weight":
            differ = f"{source} and the table differ, and llama.cpp's {architecture.name} has one tensor for both"
            raise UnsupportedError(f"{differ}; exclude lm_head, or round both alike")
        if name is None:
            where = f"GGUF's {architecture.name}"
            raise ModelError(f"{source} has no place in {where}; bring the config.json of these weights")
        found[source] = name
    return found


def _block_count(config: Mapping[str, Any]) -> int:
    return int(config.get("num_hidden_layers") or config.get("n_layer") or 0)


def _refuse_missing(names: Mapping[str, str], tensors: Tensors, architecture: Architecture) -> None:
    """Every block must have what the first one has, and the table as many rows as the configuration says."""
    held = set(names.values())
    first = {name.removeprefix("blk.0.") for name in held if name.startswith("blk.0.")}
    for block in range(_block_count(tensors.config)):
        for name in sorted(first):
            if f"blk.{block}.{name}" not in held:
                raise ModelError(f"the weights lack blk.{block}.{name}; bring all shards, and the config.json of them")
    if not first or "token_embd.weight" not in held:
        raise ModelError("the weights lack the first layer or the table of tokens; bring all shards")
    table = next(source for source, name in names.items() if name == "token_embd.weight")
    rows, size = tensors.shapes[table][0], tensors.config["vocab_size"]
    if rows != size:
        raise ModelError(f"{table} has {rows} rows, vocab_size is {size}; bring those that belong together")


def _metadata(writer: gguf.GGUFWriter, config: Mapping[str, Any], architecture: Architecture, number: int) -> None:
    for key, value in settings(config, architecture).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[value.__class__](f"{architecture.name}.{key}", value)
    writer.add_file_type(number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def file_number(parts: Sequence[Part], type: str) -> int:  # noqa: A002
    """llama.cpp's number for the type that most of the weights have, of those that are no vectors."""
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes[part.type] += int(np.prod(part.shape)) if part.type in BLOCKS or part.type == type else 0
    most = sizes.most_common(1)[0][0]
    return BLOCKS[most][0] if most in BLOCKS else FLOATS[type]


def _tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary, folder: Path) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.unicode:
        writer.add_string(UNICODE, vocabulary.unicode)
    try:
        special = gguf.SpecialVocab(folder, load_merges=vocabulary.model == "gpt2", n_vocab=len(vocabulary.tokens))
    except ValueError as error:
        raise ModelError(
            f"{folder}: its tokenizer_config.json or chat template is damaged ({error}); copy it"
        ) from error
    special.add_to_gguf(writer, quiet=True)


def _pooled(writer: gguf.GGUFWriter, config: Mapping[str, Any], pooled: Pooled) -> None:
    writer.add_token_type_count(config.get("type_vocab_size", 1))
    writer.add_pooling_type(_POOLING[pooled.pooling])
    writer.add_bool(NORMALIZE, pooled.normalize)


def _head(writer: gguf.GGUFWriter, parts: Sequence[Part]) -> None:
    for part in parts:
        kind = gguf.GGMLQuantizationType[part.type]
        writer.add_tensor_info(part.name, part.shape, np.dtype(np.float32), part.bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _holes(writer: gguf.GGUFWriter, path: Path, parts: Sequence[Part]) -> None:
    step = writer.data_alignment
    sizes = [(part.bytes + step - 1) // step * step for part in parts]
    os.truncate(path, (path.stat().st_size + step - 1) // step * step + sum(sizes))


def _body(
    writer: gguf.GGUFWriter,
    parts: Sequence[Part],
    tensors: Tensors,
    architecture: Architecture,
    tell: Callable[[str], None],
) -> None:
    for number, part in enumerate(parts):
        if number % max(1, len(parts) // 10) == 0:
            tell(f"writing tensor {number + 1} of {len(parts)}")
        writer.write_tensor_data(_stored(_changed(part, tensors, architecture), part.type))


def _changed(part: Part, tensors: Tensors, architecture: Architecture) -> Tensor:
    if part.name == ROTARY:
        factors = rotary_factors(tensors.config)
        assert factors is not None
        return factors
    return architecture.changed(part.source, tensors.read(part.source), tensors.config)


def _stored(tensor: Tensor, type: str) -> np.ndarray:  # noqa: A002
    """The tensor's bytes as the file has them: blocks as they come; bfloat16, which NumPy has not, as uint16."""
    if type in BLOCKS:
        return tensor.contiguous().numpy()
    dtype = next(dtype for dtype, name in DTYPES.items() if name == type)
    held = tensor.to(dtype).contiguous()
    return held.view(torch.uint16).numpy() if type == "BF16" else held.numpy()


@contextmanager
def _quiet() -> Iterator[None]:
    """The package's log is for its own command line."""
    log = logging.getLogger("gguf")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
