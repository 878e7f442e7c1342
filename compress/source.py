"""Source: what MODEL on the command line can be, read into a Task."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from ..export.model import Model
from ..export.trace import first_line, quiet
from ..runtime.artifact import describe
from ..runtime.errors import DataError, EdgepressError, MissingExtra, ModelError, UsageError
from ..runtime.session import Session
from .data import Data, Score

# A file of these kinds is a pickle: code that runs when it is opened. Nobody's but one's own should be.
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".pt2"}
_EXPECTED = "a task file (task.py or task.py:name), a Hugging Face folder with config.json, or an .onnx file"


@dataclass(frozen=True)
class Task:
    """What shall become smaller, and what to judge it by. A task file has a function that returns one."""

    model: Model
    data: Data


def read_source(text: str, data: Path | None = None) -> Task:
    """MODEL as it is typed: `task.py`, `task.py:function`, a Hugging Face folder, or an `.onnx` file.

    `data` is `texts.txt` for a folder (a sample a line, or running text for a decoder), `batch.npz` (an array an input,
    and perhaps `labels`) for an ONNX file; a task file brings its own. Raises ModelError, DataError, UsageError,
    UnsupportedError.

    >>> read_source("samples/digits/task.py").model.name
    'digits'
    """
    name, colon, function = text.rpartition(":")
    path = Path(name if colon and name.endswith(".py") else text)
    if data is not None and not data.is_file():
        raise DataError(f"there is no data file {data}; check the path")
    kind = path.suffix.lower()
    if kind in _PICKLES:
        raise ModelError(f"{path} is a pickle, which is never loaded; save safetensors and load them in a task file")
    if not path.exists():
        raise ModelError(f"there is no {path}; expected {_EXPECTED}")
    if kind == ".py":
        if data is not None:
            raise UsageError(f"{path} is a task file and brings its own data; leave out --data")
        return read_task(path, function if colon and path != Path(text) else "task")
    if kind == ".onnx":
        return _read_onnx(path, data)
    if path.is_dir() and (path / "config.json").is_file():
        return _read_folder(path, data)
    raise ModelError(f"{path} is none of what a model can be read from; expected {_EXPECTED}")


def with_lengths(task: Task, text: str) -> Task:
    """The task with its model's free axes, all but the first of each input, at these lengths: "16,64".

    They are for formats of fixed shapes. An empty text leaves the task's own. Raises UsageError for anything else.
    """
    if not text:
        return task
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--lengths {text}: expected numbers from 1 on with commas between, as 16,64")
    labels = {label for axes in task.model.axes.values() for axis, label in axes.items() if axis}
    if not labels:
        raise UsageError(f"--lengths {text}: {task.model.name} has no free axis but the first; leave it out")
    lengths = dict.fromkeys(sorted(labels), tuple(sorted({int(part) for part in parts})))
    return replace(task, model=replace(task.model, lengths=lengths))


def read_task(path: Path, function: str = "task") -> Task:
    """Run a task file and call the function that returns its Task. Raises ModelError, with the line, where it fails."""
    module = _import(path)
    maker: Callable[[], Task] | None = getattr(module, function, None)
    if not callable(maker):
        found = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise UsageError(f"{path} has no function {function!r}; it has: {', '.join(found) or 'none'}")
    with _blaming(path):
        task = maker()
    if not isinstance(task, Task) or not isinstance(task.model, Model) or not isinstance(task.data, Data):
        parts = f" of {type(task.model).__name__} and {type(task.data).__name__}" if isinstance(task, Task) else ""
        raise ModelError(f"{path}:{function} returned a {type(task).__name__}{parts}; expected a Task(Model, Data)")
    if task.data.score is not None:
        task = replace(task, data=replace(task.data, score=_guarded(path, task.data.score)))
    if task.model.source:
        return task
    return replace(task, model=replace(task.model, source={"kind": "task", "sha256": describe(path).sha256}))


def _guarded(path: Path, score: Score) -> Score:
    """The task's score; what goes wrong in it is the task's fault, and told with its line."""

    def guarded(session: Session) -> Mapping[str, float]:
        with _blaming(path):
            figures = score(session)
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
    with _blaming(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever a task file raises, for it is the user's code, is one line with the file's line that it came from."""
    try:
        yield
    except EdgepressError:
        raise
    except (Exception, SystemExit) as error:
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            frames.append((error.filename or "", error.lineno))
        lines = [line for file, line in frames if line and Path(file).resolve() == path.resolve()]
        where = f", line {lines[-1]}" if lines else ""
        raise ModelError(f"{path}{where}: {type(error).__name__}: {first_line(error)}{_hint(error)}") from error


def _hint(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return ""
    sample = "the samples' packages come with: pip install 'edgepress[samples]'"
    return f"; {sample if error.name == 'sklearn' else 'install it, or put it beside the file'}"


def _read_folder(folder: Path, data: Path | None) -> Task:
    with quiet():  # where torchao is installed transformers imports it, and it logs what it has not got
        try:
            from .decoder import read_decoder
            from .encoder import read_encoder
            from .hugging_face import DECODERS, model_type
        except ImportError as error:
            raise MissingExtra(error.name or "transformers", "compress") from error
        return (read_decoder if model_type(folder) in DECODERS else read_encoder)(folder, data)


def _read_onnx(path: Path, data: Path | None) -> Task:
    from .npz import read_npz
    from .onnx_graph import read_onnx

    model = read_onnx(path)
    return Task(model, Data()) if data is None else Task(*read_npz(model, data))
