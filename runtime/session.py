"""Session: an open artifact that can be called. `load` is the runtime's door."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import ggml, ggml_trial, litert, ort, parts
from .artifact import GOLDEN, Artifact, Port, check, known_format, read_artifact
from .errors import ArtifactError, EngineError, MissingExtra, PortError, SteppedDown, UnknownName, UsageError
from .family import Family, check_family, is_family, ranked, read_family
from .golden import SelfTest, read_golden, replay
from .machine import this_machine
from .placement import Placed, Placement
from .providers import asked_for


class Engine(Protocol):
    """What `start` gives: the ports that the file has, the providers in use, what it needs, and a way to run it.

    `placed()` tells where each node runs; nothing where the library does not tell.
    """

    @property
    def inputs(self) -> tuple[Port, ...]: ...
    @property
    def outputs(self) -> tuple[Port, ...]: ...
    @property
    def providers(self) -> tuple[str, ...]: ...
    @property
    def needs(self) -> Mapping[str, Any]: ...
    @property
    def run(self) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]: ...
    @property
    def placed(self) -> Callable[[], tuple[Placed, ...]]: ...


# Format -> start(path, threads=..., providers=...). Each imports its library when it starts.
ENGINES: dict[str, Callable[..., Engine]] = {
    "onnx": ort.start,
    "tflite": litert.start,
    "gguf": ggml.start,
    "web": parts.start,
}


# Format -> the execution providers that this machine's build of its engine has.
_PROVIDERS: dict[str, Callable[[], tuple[str, ...]]] = {
    "onnx": ort.providers,
    "tflite": lambda: ("cpu",),  # xnnpack is the same
    "gguf": lambda: ("cpu",),
    "web": ort.providers,
}

# Format -> what is done with a file that somebody else made before it is opened here.
_TRIALS: dict[str, Callable[[Path], None]] = {"gguf": ggml_trial.try_apart}

# The formats of language models, and the settings of `load` that only they know.
_LANGUAGE = {"gguf"}

# Formats whose engines have been seen to compute garbage without an error: a load replays the golden samples.
_REPLAYED = {"tflite"}

# What sends a family's `load` on to its next member: an engine that is not there, or does not run the file rightly.
_REFUSALS = (EngineError, MissingExtra, UnknownName)

# What a call checks an input against, laid out for speed: dtype, rank, and (axis, size) of each axis that is not free.
# Rank 0 is a scalar, or a rank that the file does not state: the engine knows.
_Fit = tuple[np.dtype, int, tuple[tuple[int, int], ...]]


class Session(Protocol):
    """Whatever can be judged: inputs by name in, outputs by name out."""

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class LoadedModel:
    """An open artifact. Call it with its inputs by name; safe to call from several threads.

    `why` says why this member of a family was opened, and why others were not; "" where there was no choice. `asked`
    are the providers in use, in order: those that `load` was given, without the ones that it stepped down from.
    """

    artifact: Artifact
    engine: Engine
    _fits: Mapping[str, _Fit]
    why: str = ""
    asked: tuple[str, ...] = ("cpu",)

    @property
    def placement(self) -> Placement:
        """Which node runs where, as the engine tells it: names and units, no multiply-accumulates and no times.

        >>> load("out/digits-int8").placement.share("cpu")
        1.0
        """
        return Placement(self.engine.placed(), self.asked)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The ports that a call must fill."""
        return self.engine.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The ports that a call returns."""
        return self.engine.outputs

    def __call__(self, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model. Raises PortError where a name, dtype or shape does not fit, saying what was given.

        >>> model = load("out/digits-int8")
        >>> model(image=np.zeros((1, 1, 32, 32), np.float32))["logits"].shape
        (1, 10)
        """
        fits = self._fits
        for name, array in inputs.items():
            if name not in fits or not isinstance(array, np.ndarray):
                raise _mismatch(self, inputs)
            dtype, rank, fixed = fits[name]
            if array.dtype != dtype or (rank and array.ndim != rank):
                raise _mismatch(self, inputs)
            for axis, size in fixed:
                if array.shape[axis] != size:
                    raise _mismatch(self, inputs)
        if len(inputs) != len(fits):
            raise _mismatch(self, inputs)
        return self.engine.run(inputs)

    def selftest(self) -> SelfTest:
        """Replay the golden inputs and compare with the outputs recorded where the file was made.

        Raises ArtifactError where the artifact has no golden samples (a bare file has none).
        """
        golden = self.artifact.asset(GOLDEN)
        if golden is None:
            raise ArtifactError(f"{self.artifact.path} has no golden samples to replay; export it with edgepress")
        return replay(lambda inputs: self(**inputs), read_golden(golden), self.artifact.tolerance)


def load(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the field's word
    threads: int | None = None,
    providers: Sequence[str] = ("cpu",),
    verify: bool = True,
    context: int | None = None,
    cache: str | None = None,
) -> LoadedModel:
    """Open an artifact's folder, a family's folder, or a bare model file, with the engine of its format.

    Of a family the member that runs best here is opened: the fastest of those timed on this kind of machine (see
    `ranked`), the next one where its engine is missing, refuses it or gives other outputs than the golden ones; `why`
    of the result tells. `format` names the member instead.
    `threads=None` leaves the number to the engine. `providers` are tried in order (`qnn`, `openvino`, `cpu`: see
    `providers.py`): one that is not in this build, does not start, takes no node of the file or gives other outputs
    than the golden ones is left for the next, with a `SteppedDown` warning; where the last one fails, it is an error.
    `verify` compares the sha256 of every file with the manifest first, and replays the golden samples of a TFLite
    artifact, of a family's member, and of whatever runs on another unit than the CPU; a GGUF file that somebody else
    made is tried in a process of its own first, for llama.cpp ends the process on some that are made to harm.
    `context` (tokens) and `cache` (the type of keys and values: f16, f32, q8_0, q4_0) are settings of language models.
    Raises ArtifactError, EngineError, UsageError, UnknownName.

    >>> load("out/digits-int8", threads=1).inputs[0].name
    'image'
    """
    how = _How(threads, providers, verify, {k: v for k, v in (("context", context), ("cache", cache)) if v is not None})
    if is_family(path):
        family = read_family(path)
        if format is None:
            return _best(family, how)
        known_format(format, family.members)
        if verify:
            check_family(family, [format])
        return _opened(read_artifact(family.folder(format)), how)
    artifact = read_artifact(path)
    if format is not None and format != artifact.format:
        raise UsageError(f"{path} is in the format {artifact.format}, not {format}, and is no family; leave it out")
    return _opened(artifact, how)


@dataclass(frozen=True)
class _How:
    """What `load` was asked for, and `settings` that only some formats know."""

    threads: int | None
    providers: Sequence[str]
    verify: bool
    settings: Mapping[str, Any]


def _best(family: Family, how: _How) -> LoadedModel:
    """The first member in the machine's order that runs here and computes rightly."""
    if how.verify:
        check_family(family)
    order, why = ranked(family, this_machine())
    refused = []
    for form in order:
        try:
            model = _opened(read_artifact(family.folder(form)), how, replays=how.verify)
        except _REFUSALS as error:
            refused.append(f"{form} does not run here: {error}")
            continue
        chosen = "the next one" if refused else why
        return replace(model, why="; ".join([f"{form}: {chosen}", *refused]))
    raise EngineError(f"no member of {family.path} runs here; {'; '.join(refused)}")


def _opened(artifact: Artifact, how: _How, *, replays: bool = False) -> LoadedModel:
    start = known_format(artifact.format, ENGINES)
    language = artifact.format in _LANGUAGE
    if how.settings and not language:
        names = " and ".join(how.settings)
        raise UsageError(
            f"{artifact.path} is in the format {artifact.format}, which does not know {names}; leave it out"
        )
    if how.verify:
        check(artifact)
    if how.verify and artifact.bare and artifact.format in _TRIALS:
        _TRIALS[artifact.format](artifact.model)
    asked = asked_for(how.providers, providers(artifact.format))
    for at, name in enumerate(asked):
        replayed = how.verify and (replays or name != "cpu" or artifact.format in _REPLAYED)
        try:
            return _on(start, artifact, how, asked[at:], replays=replayed)
        except EngineError as error:
            if name == asked[-1]:
                raise
            words = f"{artifact.path} does not run on {name}, and goes on with {asked[at + 1]}: {error}"
            warnings.warn(SteppedDown(words), stacklevel=3)
    raise AssertionError("some provider was asked for")


def _on(
    start: Callable[..., Any], artifact: Artifact, how: _How, asked: tuple[str, ...], *, replays: bool
) -> LoadedModel:
    """The model on the first of these providers, with the others for what that does not take."""
    engine = start(artifact.model, threads=how.threads, providers=asked, **how.settings)
    if artifact.format in _LANGUAGE:
        from .language import LanguageModel  # it is a LoadedModel

        model = LanguageModel(artifact, engine, _fits(engine), asked=asked)
    else:
        model = opened(artifact, engine, asked)
    if replays and artifact.asset(GOLDEN) is not None:
        _refuse_wrong(model, asked[0])
    return model


def opened(artifact: Artifact, engine: Engine, asked: tuple[str, ...]) -> LoadedModel:
    """An artifact around an engine that has opened it already, wherever that computes; `asked` are its providers."""
    return LoadedModel(artifact, engine, _fits(engine), asked=asked)


def providers(format_: str) -> tuple[str, ...]:
    """The execution providers that can open a format here, by their short names. Raises UnknownName."""
    return known_format(format_, _PROVIDERS)()


def _refuse_wrong(model: LoadedModel, provider: str) -> None:
    seen = model.selftest()
    if not seen.passed:
        where = "here" if provider == "cpu" else f"on {provider}"
        raise EngineError(
            f"{model.artifact.path} computes wrongly {where}: its golden samples come out {seen.difference:.1e} apart, "
            f"{seen.tolerance:.0e} is allowed; install another version of the engine"
        )


def _fits(engine: Engine) -> dict[str, _Fit]:
    return {port.name: _fit(port) for port in engine.inputs}


def _fit(port: Port) -> _Fit:
    fixed = tuple((axis, size) for axis, size in enumerate(port.shape) if isinstance(size, int))
    return np.dtype(port.dtype), len(port.shape), fixed


def _mismatch(model: LoadedModel, inputs: Mapping[str, np.ndarray]) -> PortError:
    """Say what was given and what fits; kept out of the path of a good call."""
    wanted = {port.name: port for port in model.inputs}
    expected = "; expected " + ", ".join(map(str, model.inputs))
    for name, array in inputs.items():
        if name not in wanted:
            return PortError(f"there is no input {name!r}{expected}")
        if not isinstance(array, np.ndarray):
            return PortError(f"input {name!r} is a {type(array).__name__}, not a NumPy array{expected}")
        port = wanted[name]
        fits = not port.shape or len(port.shape) == array.ndim
        fits = fits and all(isinstance(w, str) or w == have for w, have in zip(port.shape, array.shape, strict=False))
        if array.dtype != np.dtype(port.dtype) or not fits:
            return PortError(f"input {name!r} is {array.dtype}{list(array.shape)}; expected {port}")
    missing = ", ".join(repr(name) for name in wanted if name not in inputs)
    return PortError(f"missing the input {missing}{expected}")
