"""Write a model as TFLite: litert-torch converts the float graph, quantized weights are put into the file after that.

Shapes are fixed there. A file has one signature for each length that the free axes are given, all around the same
weights, and notes (runtime/tflite_notes.py) that tell the runtime how to serve any length with them.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

from ..runtime import litert
from ..runtime.errors import EngineError, MissingExtra, UnsupportedError
from ..runtime.litert import LITERT
from ..runtime.tflite_notes import ENTRY, Notes
from .model import Model
from .tflite_lower import lower
from .tflite_shapes import example_at, lengths_of, notes_of, refuse_mixing
from .trace import first_line, quiet, trace

FILE = "model.tflite"
MAX_BYTES = 2_000_000_000  # a flatbuffer's offsets have 31 bits, and the converter writes the weights as floats first
# What the converter raises for what it cannot convert; it has no types of its own.
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError)


def write(model: Model, folder: Path) -> Path:
    """Write `model.tflite` into `folder` and return its path; ports have the model's names.

    Raises UnsupportedError where the model cannot be traced, has an operator or a precision that TFLite has not, gives
    other numbers when it is padded, or would pass 2 GB; ModelError where it does not run on its own example.
    """
    try:
        with quiet(), _hushed():
            import litert_torch
    except ImportError as error:
        raise MissingExtra("litert-torch", "tflite") from error
    from .tflite_file import TfliteFile
    from .tflite_weights import put_integers, quantize_inputs

    program = trace(model)
    notes = notes_of(model, program)
    signatures = lengths_of(model, notes)
    traced = program.module(check_guards=False)
    lowered = lower(fx.GraphModule(traced, traced.graph))
    if not all(decision.dequantized for decision in lowered.decisions):
        notes = replace(notes, needs=LITERT)
    size = sum(tensor.nbytes for tensor in chain(lowered.graph.parameters(), lowered.graph.buffers()))
    if size > MAX_BYTES:
        raise UnsupportedError(
            f"the weights take {size / 1e9:.1f} GB as floats, one TFLite file holds 2 GB: split the model"
        )
    floats = replace(model, module=lowered.graph)
    refuse_mixing(floats, notes, signatures, rounds=lowered.static)
    file = TfliteFile(_converted(litert_torch, floats, notes, signatures, static=lowered.static))
    put_integers(file, lowered.decisions)
    quantize_inputs(file)
    _name(file, model)
    file.add_metadata(ENTRY, notes.to_json())
    path = folder / FILE
    path.write_bytes(file.to_bytes())
    _refuse_unknown(path, model)
    return path


def _refuse_unknown(path: Path, model: Model) -> None:
    """The converter passes on operators that the engine has not: open the file here, where the model has a name."""
    try:
        litert.start(path)
    except EngineError as error:
        reason = first_line(error.__cause__ or error)
        raise UnsupportedError(
            f"{model.name} cannot be run by LiteRT: {reason}; leave that part to the caller"
        ) from error


def _converted(
    library: Any, model: Model, notes: Notes, signatures: Sequence[dict[str, int]], *, static: bool
) -> bytes:
    converter = None
    for lengths in signatures:
        name = "_".join(f"{label}_{size}" for label, size in lengths.items() if label != notes.pieces) or "run"
        given = example_at(model, notes, lengths)
        converter = (converter or library).signature(name, model.module, sample_kwargs=given)
    assert converter is not None
    level = logging.root.level
    try:
        with quiet(), _hushed(), torch.no_grad():
            return converter.convert(quant_config=_mode(static)).model_content()
    except (*_FAILURES, _mlir_error()) as error:
        raise UnsupportedError(f"{model.name} cannot be said in TFLite: {first_line(error)}") from error
    finally:
        logging.root.setLevel(level)


def _mlir_error() -> type[Exception]:
    from litert_converter.mlir import ir

    return ir.MLIRError  # pyright: ignore[reportAttributeAccessIssue] - of the native part, which has no stubs


def _mode(static: bool) -> Any:
    """With quantized activations: the converter's own way to integer operators; it asks a quantizer no more than this.

    Without, it shall leave quantize and dequantize where they are: it would quantize the other layers too.
    """
    if not static:
        return None
    from litert_torch.quantize.quant_config import QuantConfig

    quantizer: Any = SimpleNamespace(global_config=SimpleNamespace(is_dynamic=False))
    return QuantConfig(pt2e_quantizer=quantizer)


def _name(file: Any, model: Model) -> None:
    """Give ports the model's names; the converter numbers outputs, and what it names values is of its own making."""
    for signature in file.model.signatureDefs:
        graph = file.model.subgraphs[signature.subgraphIndex]
        for entry in signature.outputs:
            entry.name = model.outputs[int(entry.name.decode().removeprefix("output_"))].encode()
        named = {entry.tensorIndex: entry.name for entry in (*signature.inputs, *signature.outputs)}
        for number, tensor in enumerate(graph.tensors):
            tensor.name = named.get(number, tensor.name if tensor.name in file.named else b"")


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep from the terminal what the converter's C++ writes there; what fails is raised all the same."""
    old = os.environ.get("LITERT_TORCH_SHOW_PROGRESS")
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if old is None:
            del os.environ["LITERT_TORCH_SHOW_PROGRESS"]
        else:
            os.environ["LITERT_TORCH_SHOW_PROGRESS"] = old
