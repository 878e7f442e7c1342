"""The LiteRT engine for `.tflite` files. Their shapes are fixed, so it pads, cuts, and runs a batch in pieces:

    y(x) = cut(f_n(pad_n(x)))               n: the least length of the file's signatures that x fits into
    y([x_1; x_2]) = [y(x_1); y(x_2)]        where a signature takes one sample

The library, ai-edge-litert or else tflite-runtime, is imported when a session starts.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Port
from .errors import EngineError, MissingExtra, PortError, UsageError
from .litert_plan import XNNPACK, placed
from .placement import Placed
from .providers import refuse_others
from .tflite_notes import Notes, cut_back, read_notes, sizes_of

LITERT, OLD = "ai-edge-litert", "tflite-runtime"
# What LiteRT raises for a file that is damaged or that it cannot run; it has no types of its own.
_FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, OSError, MemoryError)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LiteRtEngine:
    """One open file. `needs` tells the lengths that its free axes are run at, and the library where it asks for one.

    `placed()` tells which operators XNNPACK took.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    providers: tuple[str, ...]
    needs: Mapping[str, Any]
    run: Callable[[Arrays], dict[str, np.ndarray]]
    placed: Callable[[], tuple[Placed, ...]] = tuple


@dataclass(frozen=True)
class _Signature:
    """One way into the file: the shapes (-1: any length) and dtypes of its ports by name, and `call`."""

    inputs: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    outputs: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    call: Callable[[Arrays], dict[str, np.ndarray]]


def start(path: Path, *, threads: int | None = None, providers: Sequence[str] = ("cpu",)) -> LiteRtEngine:
    """Open a `.tflite` file. `threads=None` leaves the number to the engine (one).

    `cpu` and `xnnpack` are the same: XNNPACK runs what it can. Raises EngineError where the file cannot be opened or
    needs another library than the one that is here, and for ONNX Runtime's providers; UnknownName for a provider that
    nobody knows, UsageError where `threads` is below 1.
    """
    library, interpreter_type = _library()
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected at least 1, or None for the engine's own choice")
    refuse_others(providers, ("cpu", XNNPACK), "LiteRT")
    notes = read_notes(path)
    if notes is not None and notes.needs not in ("", library):
        raise EngineError(
            f"{path} needs {notes.needs}, {library} would compute it wrongly; it comes with: pip install "
            "'edgepress[litert]'"
        )
    try:
        interpreter = interpreter_type(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        signatures = _signatures(interpreter)
    except _FAILURES as error:
        raise EngineError(f"LiteRT cannot open {path}: {_one_line(error)}") from error
    engine = _noted(notes, signatures, path) if notes is not None else _bare(signatures, path)
    return replace(engine, placed=functools.cache(lambda: placed(interpreter)))


def _library() -> tuple[str, Callable[..., Any]]:
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra(LITERT, "litert") from error
        return OLD, Interpreter
    return LITERT, Interpreter


def _signatures(interpreter: Any) -> dict[str, _Signature]:
    """The file's signatures by name; one without any has its ports by the tensors' names."""
    lock = threading.Lock()  # one interpreter holds the values of all

    def guarded(call: Callable[..., Any]) -> Callable[[Arrays], dict[str, np.ndarray]]:
        def run(inputs: Arrays) -> dict[str, np.ndarray]:
            try:
                with lock:
                    return call(**inputs)
            except _FAILURES as error:
                raise EngineError(f"LiteRT stopped: {_one_line(error)}") from error

        return run

    found = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        found[name] = _Signature(_ports(inputs.items()), _ports(outputs.items()), guarded(runner))
    if found:
        return found
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return {
        "": _Signature(
            _ports((detail["name"], detail) for detail in inputs),
            _ports((detail["name"], detail) for detail in outputs),
            guarded(_whole(interpreter, inputs, outputs)),
        )
    }


def _ports(details: Iterable[tuple[str, Any]]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {n: (tuple(map(int, _shape(d))), np.dtype(d["dtype"])) for n, d in details}


def _shape(detail: Mapping[str, Any]) -> Any:
    signature = detail["shape_signature"]  # empty where the file does not tell free axes
    return signature if len(signature) else detail["shape"]


def _whole(interpreter: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Callable[..., dict[str, np.ndarray]]:
    """A call of the file itself, where it has no signature."""
    indices = {detail["name"]: detail["index"] for detail in inputs}
    shapes = {detail["name"]: tuple(detail["shape"]) for detail in inputs}

    def call(**arrays: np.ndarray) -> dict[str, np.ndarray]:
        if any(shapes[name] != array.shape for name, array in arrays.items()):
            for name, array in arrays.items():
                interpreter.resize_tensor_input(indices[name], array.shape)
                shapes[name] = array.shape
            interpreter.allocate_tensors()
        for name, array in arrays.items():
            interpreter.set_tensor(indices[name], array)
        interpreter.invoke()
        return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in outputs}

    return call


def _bare(signatures: Mapping[str, _Signature], path: Path) -> LiteRtEngine:
    """A file that somebody else made: its ports are what it takes, and its free axes are the engine's to resize."""
    if len(signatures) > 1:
        raise EngineError(f"{path} has the signatures {', '.join(signatures)}; a file from elsewhere may have one")
    (signature,) = signatures.values()
    inputs, outputs = (
        tuple(Port(name, dtype.name, _labelled(shape)) for name, (shape, dtype) in side.items())
        for side in (signature.inputs, signature.outputs)
    )
    return LiteRtEngine(inputs, outputs, ("cpu",), {}, signature.call)


def _labelled(shape: Sequence[int]) -> tuple[int | str, ...]:
    return tuple(size if size >= 0 else ("batch" if axis == 0 else "?") for axis, size in enumerate(shape))


def _noted(notes: Notes, signatures: Mapping[str, _Signature], path: Path) -> LiteRtEngine:
    """A file of our exporter: the ports that its notes tell, served by its signatures, the shortest first."""
    by_length = [(_lengths(notes, signature, path), signature) for signature in signatures.values()]
    by_length.sort(key=lambda pair: sorted(pair[0].items()))
    labels = {label for lengths, _ in by_length for label in lengths}
    told = {label: sorted({lengths[label] for lengths, _ in by_length}) for label in sorted(labels)}
    needs = ({"lengths": told} if told else {}) | ({"engine": notes.needs} if notes.needs else {})

    names = [port.name for port in notes.inputs]
    exact = {tuple(s.inputs[name][0] for name in names): s.call for _, s in by_length if _is_exact(notes, s)}

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        if (call := exact.get(tuple([inputs[name].shape for name in names]))) is not None:
            return call(inputs)  # nothing to pad, to cut or to cast
        sizes = sizes_of(notes.inputs, inputs)
        for lengths, signature in by_length:
            if all(size <= lengths[label] for label, size in sizes.items() if label != notes.pieces):
                return _in_pieces(notes, signature, lengths, sizes, inputs)
        longest = ", ".join(f"{label} up to {told[label][-1]}" for label in told if label != notes.pieces)
        raise PortError(
            f"the inputs have {_said(sizes)}; this file takes {longest}: cut them, or export it with longer --lengths"
        )

    return LiteRtEngine(notes.inputs, notes.outputs, ("cpu",), needs, run)


def _lengths(notes: Notes, signature: _Signature, path: Path) -> dict[str, int]:
    """What a signature's fixed shapes make of the free axes."""
    lengths: dict[str, int] = {}
    for ports, held in ((notes.inputs, signature.inputs), (notes.outputs, signature.outputs)):
        for port in ports:
            shape, dtype = held.get(port.name, ((), np.dtype(object)))
            integers = dtype.kind == "i" and np.dtype(port.dtype).kind == "i"
            if len(shape) != len(port.shape) or not (integers or dtype == np.dtype(port.dtype)):
                raise EngineError(f"{path} has other ports than its notes tell, as {port.name!r}; export it again")
            lengths |= {axis: size for axis, size in zip(port.shape, shape, strict=True) if isinstance(axis, str)}
    return lengths


def _is_exact(notes: Notes, signature: _Signature) -> bool:
    """True where the file keeps every port in the type that a caller sees."""
    sides = ((notes.inputs, signature.inputs), (notes.outputs, signature.outputs))
    return all(held[port.name][1] == np.dtype(port.dtype) for ports, held in sides for port in ports)


def _in_pieces(
    notes: Notes, signature: _Signature, lengths: Mapping[str, int], sizes: Mapping[str, int], inputs: Arrays
) -> dict[str, np.ndarray]:
    count, step = sizes.get(notes.pieces, 1), lengths.get(notes.pieces, 1)
    pieces = []
    for first in range(0, max(count, 1), step):
        part = {}
        for port in notes.inputs:
            array = inputs[port.name]
            cut = array[first : first + step] if notes.pieces and notes.pieces in port.shape[:1] else array
            part[port.name] = _padded(cut, *signature.inputs[port.name], port.name)
        pieces.append(signature.call(part))
    outputs = {}
    for port in notes.outputs:
        parts = [piece[port.name] for piece in pieces]
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        outputs[port.name] = cut_back(whole, port, sizes).astype(port.dtype, copy=False)
    return outputs


def _padded(array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """`array` in the file's type, zeros behind it on each axis that is too short."""
    if array.dtype != dtype:
        limits = np.iinfo(dtype)
        if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
            raise PortError(f"input {name!r} holds {array.min()} to {array.max()}; the file keeps it in {dtype}")
    if array.shape == shape:
        return array.astype(dtype, copy=False)
    padded = np.zeros(shape, dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {size}" for label, size in sizes.items())


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines) or type(error).__name__
