"""Quantize a GGUF file to llama.cpp's own types, by its own function; and say beforehand what it will really do.

llama.cpp changes its mind in silence: a row that its type's blocks do not divide gets another type, names that match
nothing are ignored, the type that it writes into the file is the one asked for. So names are checked before, and what
was written is read after.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ..runtime.errors import ModelError, UnknownName, UnsupportedError
from ..runtime.gguf_file import Tensor, read_gguf
from ..runtime.llama import library, listening, log, reason
from .gguf_write import FLOATS

# Types of a whole file, by llama.cpp's number: most of them give some tensors more bits than others.
FILE_TYPES = FLOATS | {
    "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8, "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3,
    "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26,
    "IQ3_XS": 22, "IQ3_XXS": 23, "Q2_K": 10, "Q2_K_S": 21, "IQ2_M": 29, "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19,
    "IQ1_M": 31, "IQ1_S": 24, "TQ2_0": 37, "TQ1_0": 36,
}  # fmt: skip
# What a row that 256 does not divide is better stored as than what llama.cpp takes, at no more bytes.
BETTER = {"Q4_0": "IQ4_NL", "Q5_0": "IQ4_NL"}
_BUFFER = 256 << 20  # bytes of rows in memory at once; llama.cpp's own default is 8 GiB


@dataclass(frozen=True)
class Planned:
    """A tensor: what it is, what it becomes, and what it would have become if its rows were of another length.

    `wanted` equals `type` unless the shape forces a substitution; then `better` names a type that errs less, or "".
    `bytes` are those on disk.
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    type: str
    wanted: str
    bytes: int

    @property
    def substituted(self) -> bool:
        return self.type != self.wanted

    @property
    def better(self) -> str:
        return BETTER.get(self.type, "") if self.substituted else ""

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.bytes / int(np.prod(self.shape))


def plan(source: Path, type: str, *, types: Mapping[str, str] | None = None, importance: bool = False) -> list[Planned]:  # noqa: A002
    """What `quantize` will make of each tensor, as llama.cpp itself says; nothing is written.

    `source` may be a file whose weights are not filled in. `importance` says that there will be an importance matrix,
    which some types are chosen by. Raises UnknownName for a type, ArtifactError for a damaged file,
    ModelError where llama.cpp refuses it.

    >>> [p.name for p in plan(Path("smollm.gguf"), "Q4_K_M") if p.substituted]
    []
    """
    number = file_type(type)
    stored = {tensor.name: tensor for tensor in read_gguf(source).tensors}
    matrix = {name: np.ones(t.shape[-1], np.float32) for name, t in stored.items()} if importance else {}
    if _run(source, Path(), number, _overrides(types or {}, stored), matrix, dry=True):
        raise ModelError(f"{source} cannot be quantized: {reason()}")
    text = log()
    becomes = dict(re.findall(r"\] +(\S+) +- \[[^\]]*\], type = +\w+, size = [^\n]*\((\w+)\)", text))
    wanted = dict(re.findall(r"warning: (\S+) +- ncols +\d+ not divisible by +\d+ \(required for type +(\w+)\)", text))
    return [_planned(tensor, becomes.get(name), wanted.get(name)) for name, tensor in stored.items()]


def quantize(
    source: Path,
    target: Path,
    type: str,  # noqa: A002
    *,
    types: Mapping[str, str] | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
    threads: int = 0,
) -> list[Planned]:
    """Write `source`, a float GGUF file, as `target` in the file type `type`; returns what each tensor became.

    `types` gives tensors of these names another type; `importance` is the mean squared input of each column, float32
    (columns,), by tensor: errors count by it. Raises UnknownName for a type or a tensor, ModelError where the weights
    are not finite or the matrix does not fit, UnsupportedError where a type needs a matrix and there is none.
    """
    number = file_type(type)
    stored = {tensor.name: tensor for tensor in read_gguf(source).tensors}
    _refuse_misfits(importance or {}, stored)
    planned = plan(source, type, types=types, importance=bool(importance))
    if _run(source, target, number, _overrides(types or {}, stored), importance or {}, threads=threads):
        target.unlink(missing_ok=True)
        if "imatrix" in log() or "importance matrix" in log():
            raise UnsupportedError(f"{type} needs to know which inputs matter; give it text: --data texts.txt")
        raise ModelError(f"{source} cannot be quantized to {type}: {reason()}")
    written = {tensor.name: tensor.type for tensor in read_gguf(target).tensors}
    for one in planned:
        if written.get(one.name) != one.type:
            raise ModelError(f"llama.cpp wrote {one.name} as {written.get(one.name)} and had said {one.type}")
    return planned


def file_type(name: str) -> int:
    """llama.cpp's number of a file type. Raises UnknownName."""
    if name not in FILE_TYPES:
        raise UnknownName("GGUF type", name, FILE_TYPES)
    return FILE_TYPES[name]


def _planned(tensor: Tensor, becomes: str | None, wanted: str | None) -> Planned:
    names = {kind.name.lower(): kind for kind in gguf.GGMLQuantizationType}
    kind = names[(becomes or tensor.type).lower()]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    asked = kind if wanted is None else names[wanted.lower()]
    return Planned(tensor.name, tensor.shape, tensor.type, kind.name, asked.name, tensor.size // block * size)


def _refuse_misfits(importance: Mapping[str, np.ndarray], stored: Mapping[str, Tensor]) -> None:
    for name, values in importance.items():
        if name not in stored:
            raise UnknownName("tensor", name, stored)
        if values.shape != (stored[name].shape[-1],) or not np.isfinite(values).all():
            raise ModelError(f"the importance of {name} has the shape {list(values.shape)}; its rows are "
                             f"{stored[name].shape[-1]} long, and it must be finite")  # fmt: skip


def _overrides(types: Mapping[str, str], stored: Mapping[str, Tensor]) -> Sequence[tuple[bytes, int]]:
    found = []
    for name, kind in types.items():
        if name not in stored:
            raise UnknownName("tensor", name, stored)
        if kind not in gguf.GGMLQuantizationType.__members__:
            raise UnknownName("GGUF type", kind, gguf.GGMLQuantizationType.__members__)
        found.append((f"^{re.escape(name)}$".encode(), int(gguf.GGMLQuantizationType[kind])))
    return found


def _run(
    source: Path,
    target: Path,
    number: int,
    overrides: Sequence[tuple[bytes, int]],
    importance: Mapping[str, np.ndarray],
    *,
    dry: bool = False,
    threads: int = 0,
) -> bool:
    """Whether llama.cpp's function failed. What the structs point to is held here until it returns."""
    low = library()
    params = low.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.dry_run, params.max_buf_size = number, threads, dry, _BUFFER
    if overrides:
        last = low.llama_model_tensor_override(None, 0)
        table = [low.llama_model_tensor_override(pattern, kind) for pattern, kind in overrides]
        array = (low.llama_model_tensor_override * (len(table) + 1))(*table, last)
        params.tt_overrides = ctypes.cast(array, ctypes.POINTER(low.llama_model_tensor_override))
    held = {name: np.ascontiguousarray(values, np.float32) for name, values in importance.items()}
    if held:
        pointer = ctypes.POINTER(ctypes.c_float)
        rows = [low.llama_model_imatrix_data(n.encode(), v.ctypes.data_as(pointer), v.size) for n, v in held.items()]
        rows.append(low.llama_model_imatrix_data(None, None, 0))
        matrix = (low.llama_model_imatrix_data * len(rows))(*rows)
        params.imatrix = ctypes.cast(matrix, ctypes.POINTER(low.llama_model_imatrix_data))
    listening()
    return bool(low.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.pointer(params)))
