"""Values: what a file computes between its inputs and its outputs, each as float, in the order of computation.

    x = scale · (q − zero)      where a tensor holds integers and the file says what they stand for

The engine runs without fusing anything, so that every value is there to be read; it computes the same otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.artifact import known_format
from ..runtime.errors import EngineError, UnsupportedError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of a file: the name that the file gives it, its place in the order, and its float values."""

    name: str
    place: int
    array: np.ndarray


def file_values(path: Path, format_: str, inputs: Arrays) -> list[Value]:
    """All float values that the file computes for `inputs`, its outputs among them.

    `inputs` have the shapes that the file itself has (see `fixed_shapes`). Raises UnknownName for a format that is not
    looked into, EngineError where the file does not run.
    """
    found = known_format(format_, READABLE)(path, inputs)
    return [Value(name, place, array) for place, (name, array) in enumerate(found)]


def fixed_shapes(path: Path, format_: str) -> dict[str, tuple[int, ...]]:
    """The inputs' shapes where the file has fixed ones, those of its first signature; else nothing."""
    if format_ != "tflite":
        return {}
    signature = _first(_interpreter(path))
    return {name: tuple(map(int, detail["shape"])) for name, detail in signature.get_input_details().items()}


def _onnx(path: Path, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(path))
    outputs = {output.name for output in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        arrays = session.run(names, dict(inputs))
    except Exception as error:  # ONNX Runtime's types share no base class
        raise EngineError(f"{path} does not run with its inner values shown: {str(error).splitlines()[0]}") from error
    for name, array in zip(names, arrays, strict=True):
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            yield name, array.astype(np.float32, copy=False)


def _tflite(path: Path, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    interpreter = _interpreter(path)
    runner = _first(interpreter)
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
    runner(**{name: inputs[name].astype(dtype) for name, dtype in dtypes.items()})
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    for operator in interpreter._get_ops_details():
        for index in operator["outputs"]:
            if index in details:
                array = _read(interpreter, index)
                if array is not None:
                    yield f"{operator['op_name']} {index}", _as_float(array, details[index])


def _read(interpreter: Any, index: int) -> np.ndarray | None:
    try:
        return interpreter.get_tensor(index)
    except ValueError:  # what an operator keeps for itself
        return None


def _as_float(array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scales, zeros = detail["quantization_parameters"]["scales"], detail["quantization_parameters"]["zero_points"]
    if len(scales) == 1 and array.dtype.kind in "iu":
        return ((array.astype(np.float64) - zeros[0]) * scales[0]).astype(np.float32)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _interpreter(path: Path) -> Any:
    """An interpreter with the reference kernels, which keeps every tensor."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    return Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def _first(interpreter: Any) -> Any:
    """The runner of the first subgraph, the only one whose operators the library tells; our exporter's shortest."""
    runners = [interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()]
    found = next((runner for runner in runners if runner._subgraph_index == 0), None)
    if found is None:
        raise UnsupportedError("a .tflite file without signatures is not looked into; export it with edgepress")
    return found


READABLE: dict[str, Callable[[Path, Arrays], Iterator[tuple[str, np.ndarray]]]] = {"onnx": _onnx, "tflite": _tflite}
