"""Source: what MODEL on the command line can be, read into a Task."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ..export.model import Model
from ..runtime.arrays import read_arrays
from ..runtime.artifact import describe
from ..runtime.errors import DataError, EdgepressError, MissingExtra, ModelError, UsageError
from ..runtime.session import Session
from .data import Batch, Data, Score, batches, checked, top1
from .fidelity import fidelity

# A file of these kinds is a pickle: code that runs when it is opened. Nobody's but one's own should be.
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".pt2"}
_LABELS = "labels"
_EXPECTED = "a task file (task.py or task.py:name), a Hugging Face folder with config.json, or an .onnx file"


@dataclass(frozen=True)
class Task:
    """What shall become smaller, and what to judge it by. A task file has a function that returns one."""

    model: Model
    data: Data


def read_source(text: str, data: Path | None = None) -> Task:
    """MODEL as it is typed: `task.py`, `task.py:function`, a Hugging Face folder, or an `.onnx` file.

    `data` is `texts.txt` (one sample a line) for a folder, `batch.npz` (an array an input, and perhaps `labels`) for
    an ONNX file; a task file brings its own. Raises ModelError, DataError, UsageError, UnsupportedError.

    >>> read_source("samples/digits/task.py").model.name
    'digits'
    """
    name, colon, function = text.rpartition(":")
    path = Path(name if colon and name.endswith(".py") else text)
    if data is not None and not data.is_file():
        raise DataError(f"there is no data file {data}; check the path")
    if path.suffix in _PICKLES:
        raise ModelError(f"{path} is a pickle, which is never loaded; save safetensors and load them in a task file")
    if not path.exists():
        raise ModelError(f"there is no {path}; expected {_EXPECTED}")
    if path.suffix == ".py":
        if data is not None:
            raise UsageError(f"{path} is a task file and brings its own data; leave out --data")
        return read_task(path, function if colon and path != Path(text) else "task")
    if path.suffix == ".onnx":
        return _read_onnx(path, data)
    if path.is_dir() and (path / "config.json").is_file():
        return _read_folder(path, data)
    raise ModelError(f"{path} is none of what a model can be read from; expected {_EXPECTED}")


def read_task(path: Path, function: str = "task") -> Task:
    """Run a task file and call the function that returns its Task. Raises ModelError, with the line, where it fails."""
    module = _import(path)
    maker: Callable[[], Task] | None = getattr(module, function, None)
    if not callable(maker):
        found = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise UsageError(f"{path} has no function {function!r}; it has: {', '.join(found) or 'none'}")
    try:
        task = maker()
    except EdgepressError:
        raise
    except Exception as error:  # a task file is the user's code, and may raise anything
        raise ModelError(_blame(path, error)) from error
    if not isinstance(task, Task):
        raise ModelError(f"{path}:{function} returned a {type(task).__name__}; expected a Task(model, data)")
    if task.data.score is not None:
        task = replace(task, data=replace(task.data, score=_guarded(path, task.data.score)))
    if task.model.source:
        return task
    return replace(task, model=replace(task.model, source={"kind": "task", "sha256": describe(path).sha256}))


def _guarded(path: Path, score: Score) -> Score:
    """The task's score; what goes wrong in it is the task's fault, and told with its line."""

    def guarded(session: Session) -> Mapping[str, float]:
        try:
            figures = score(session)
        except EdgepressError:
            raise
        except Exception as error:  # a task file is the user's code, and may raise anything
            raise ModelError(_blame(path, error)) from error
        numbers = isinstance(figures, Mapping) and all(isinstance(x, int | float | np.number) for x in figures.values())
        if not numbers or not figures:
            raise ModelError(f"{path}: the score returned {figures!r}; expected figures by name, as {{'top1': 0.98}}")
        return figures

    return guarded


def _import(path: Path) -> ModuleType:
    """Import by path; the file's own folder is where it finds its neighbours, as if it were run."""
    name = f"edgepress_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        hint = "; the samples' packages come with: pip install 'edgepress[samples]'" if error.name == "sklearn" else ""
        raise ModelError(f"{_blame(path, error)}{hint}") from error
    except EdgepressError:
        raise
    except Exception as error:  # a task file is the user's code, and may raise anything
        raise ModelError(_blame(path, error)) from error
    return module


def _blame(path: Path, error: Exception) -> str:
    """What a task file raised, and the line of the file that it came from."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
    lines += [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    where = f", line {lines[-1]}" if lines else ""
    if isinstance(error, SyntaxError) and error.lineno:
        where = f", line {error.lineno}"
    reason = next(iter(str(error).strip().splitlines()), "")
    return f"{path}{where}: {type(error).__name__}: {reason}"


def _read_folder(folder: Path, data: Path | None) -> Task:
    try:
        from .encoder import read_encoder
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", "compress") from error
    return read_encoder(folder, data)


def _read_onnx(path: Path, data: Path | None) -> Task:
    from .onnx_graph import read_onnx

    model = read_onnx(path)
    if data is None:
        return Task(model, Data())
    arrays = read_arrays(data)
    labels = arrays.pop(_LABELS, None) if _LABELS not in model.example else None
    samples = _samples(model, arrays, data)
    if labels is None:
        return Task(_exemplified(model, samples), Data(samples, score=fidelity(model, samples, model.outputs[0])))
    if len(labels) != sum(len(next(iter(batch.values()))) for batch in samples):
        raise DataError(f"{data} has {len(labels)} labels and another number of samples; expected one for each")
    score = top1({name: np.concatenate([b[name] for b in samples]) for name in samples[0]}, labels,
                 output=model.outputs[0], size=len(next(iter(samples[0].values()))))  # fmt: skip
    return Task(_exemplified(model, samples), Data(samples, score=score))


def _samples(model: Model, arrays: Batch, path: Path) -> list[Batch]:
    """Batches that fit the model's inputs; one batch of all where an axis of the batch is fixed."""
    expected = {name: (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in model.example.items()}
    if set(arrays) != set(expected):
        raise DataError(f"{path} holds the arrays {sorted(arrays)}; the model takes {sorted(expected)}")
    size = 1
    for name, (dtype, shape) in expected.items():
        array, free = arrays[name], model.axes.get(name, {})
        fits = array.ndim == len(shape) and all(i == 0 or i in free or n == array.shape[i] for i, n in enumerate(shape))
        if not fits or str(array.dtype) != dtype:
            wanted = [free.get(i, n) for i, n in enumerate(shape)]
            raise DataError(f"{path}: {name!r} is {array.dtype}{list(array.shape)}; the model takes {dtype}{wanted}")
        size = 16 if shape and 0 in free else (shape[0] if shape else 1)
    found = [checked(batch) for batch in batches(arrays, size)]
    return [batch for batch in found if size == 16 or len(next(iter(batch.values()))) == size]


def _exemplified(model: Model, samples: list[Batch]) -> Model:
    """The model with real samples as its example: they become the golden inputs."""
    taken: Mapping[str, np.ndarray] = {name: array[: max(2, 1)] for name, array in samples[0].items()}
    if any(array.shape[0] < 2 for name, array in taken.items() if 0 in model.axes.get(name, {})):
        return model
    fixed = {name: array if 0 in model.axes.get(name, {}) else samples[0][name] for name, array in taken.items()}
    return replace(model, example={name: torch.from_numpy(array) for name, array in fixed.items()})
