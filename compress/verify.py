"""verify: are the files what was exported, do they compute what was recorded, and do they say the same?"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices.browser import BrowserEngine, open_in_browser
from ..export.parity import Arrays, Parity, Run, Sample, Side, hold
from ..export.precision import PRECISIONS, precision_of, same_steps
from ..runtime.artifact import Port, check, read_artifact
from ..runtime.errors import DeviceError, EngineError, MissingExtra, PortError, UsageError
from ..runtime.golden import SelfTest
from ..runtime.invented import invent, try_out
from ..runtime.machine import this_machine
from ..runtime.session import LoadedModel, load, providers
from .part import Parted, part
from .probes import TEXTS, fingerprint, fits, golden_samples, unnatural_samples
from .tokenization import Difference, differences, read_tokenizer, text_encoder

if TYPE_CHECKING:
    from .data import Score
    from .source import Task

Tell = Callable[[str], None]
SOURCE = "source"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Replay:
    """An artifact's golden samples, replayed by one engine; of a bare file nothing is recorded, and it is tried out."""

    path: Path
    provider: str
    seen: SelfTest


@dataclass(frozen=True)
class Verified:
    """Everything that was seen. `parity` is None for one file without a source, and where files have other ports."""

    replays: tuple[Replay, ...]
    parity: Parity | None = None
    tokenizers: tuple[Difference, ...] = ()
    assets: tuple[str, ...] = ()  # what ships along and differs, in words
    parted: tuple[Parted, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True where every replay is within its tolerance, every pair within its limits, what ships along the same."""
        good = self.parity is None or self.parity.passed
        return good and not (self.tokenizers or self.assets) and all(replay.seen.passed for replay in self.replays)


def verify(
    paths: Sequence[Path],
    source: "Task | None" = None,
    tell: Tell = lambda text: None,
    *,
    names: Sequence[str] = (),
    scored: bool = True,
) -> Verified:
    """Check the hashes of each artifact, replay its golden samples, and hold all of them against each other.

    A web build is opened in a browser; where there is none, natively, and a note says so.
    With `source` the files are held against the model that they were made from too, judged by its score (if `scored`),
    and where a pair breaks its limits, the layer where it parts is named. `names` are what the artifacts are called, by
    default what their folders are. Raises ArtifactError for a file that is missing or damaged, EngineError for one that
    does not open, UsageError for a source with other inputs.
    """
    for path in paths:
        check(read_artifact(path))
    with ExitStack() as browsers:
        opened, notes = [], []
        for path in paths:
            model, note = _opened(path, browsers, tell)
            opened.append(model)
            notes += [note] if note else []
        replays = tuple(replay for model in opened for replay in _replays(model))
        seen = Verified(replays, notes=tuple(notes))
        models = {_told(name, model): model for name, model in zip(names or _names(opened), opened, strict=True)}
        if len(models) == 1 and source is None:
            return seen
        if source is not None:
            _refuse_other_inputs(source.model.example, opened)
        if (reason := _strangers(opened, source)) is not None:
            return replace(seen, notes=(*notes, f"not compared with each other: {reason}"))
        held = _held(models, source, tell, scored=scored)
        return replace(held, replays=replays, notes=(*notes, *held.notes))


def _opened(path: Path, browsers: ExitStack, tell: Tell) -> tuple[LoadedModel, str]:
    """The artifact, open: a web build in a browser, where there is one; else by this machine's engine, and why."""
    artifact, note = read_artifact(path), ""
    if artifact.format == "web":
        tell(f"opening {artifact.name} in a browser")
        try:
            return browsers.enter_context(open_in_browser(artifact)), note
        except (MissingExtra, DeviceError) as error:
            note = f"{path} was opened by this machine's ONNX Runtime, not in a browser: {error}"
    threads = this_machine().cores  # nothing is timed here, and one engine would take a single one
    return load(path, verify=False, threads=threads), note


def _told(name: str, model: LoadedModel) -> str:
    """The name in the matrix, which says where a side was computed that was not computed here."""
    return f"{name} (browser)" if isinstance(model.engine, BrowserEngine) else name


def _held(models: Mapping[str, LoadedModel], source: "Task | None", tell: Tell, *, scored: bool) -> Verified:
    """The matrix and all around it."""
    tokenizers = _tokenizers(models, source)
    files = [_side(name, model) for name, model in models.items()]
    sides = [*_source(source, files), *files]
    samples, notes = _samples(models, sides[0], source, next(iter(tokenizers.values()), None))
    if scored and source is not None and source.data.score is not None:
        sides = [_scored(side, source.data.score, tell) for side in sides]
        unscored = ", ".join(side.name for side in sides if not side.score)
        notes += (f"no score of {unscored}: it does not take all that is judged",) if unscored else ()
    parity = hold(sides, samples, tell)
    return Verified(
        replays=(),
        parity=parity,
        tokenizers=tuple(differences(tokenizers, list(TEXTS.values()))),
        assets=tuple(_differing_assets(models, source)),
        parted=tuple(part([pair for pair in parity.pairs if pair.breaches], models, samples, source, tell)),
        notes=notes,
    )


def _replays(on_cpu: LoadedModel) -> Iterator[Replay]:
    """By each provider that opens the file; one that is in the build and not on the machine is none."""
    path, engine = on_cpu.artifact.path, on_cpu.engine
    if isinstance(engine, BrowserEngine):
        yield Replay(path, f"{engine.opened.backend} in Chromium {engine.browser.version}", on_cpu.selftest())
        return
    for provider in providers(on_cpu.artifact.format):
        try:
            model = on_cpu if provider == "cpu" else load(path, verify=False, providers=[provider])
        except EngineError:
            continue
        yield Replay(path, provider, try_out(model) if model.artifact.bare else model.selftest())


def _names(models: Sequence[LoadedModel]) -> list[str]:
    """The artifacts' names; where two are the same, the paths as they were given."""
    names = [model.artifact.name for model in models]
    return names if len({*names, SOURCE}) > len(names) else [str(model.artifact.path) for model in models]


def _refuse_other_inputs(example: Mapping[str, object], models: Sequence[LoadedModel]) -> None:
    """Raise UsageError where the source takes inputs of other names than a file."""
    for model in models:
        taken = [port.name for port in model.inputs]
        if example.keys() != set(taken):
            raise UsageError(
                f"the source takes {', '.join(example)}, {model.artifact.path} takes {', '.join(taken)}; expected the "
                "model that the files were made from"
            )


def _strangers(models: Sequence[LoadedModel], source: "Task | None") -> str | None:
    """Why these are not files of one model; None where they may be."""
    first = models[0]
    for other in models[1:]:
        for mine, theirs in ((first.inputs, other.inputs), (first.outputs, other.outputs)):
            if not _alike(mine, theirs):
                return f"one has {', '.join(map(str, mine))}, another {', '.join(map(str, theirs))}"
    made_from = {model.artifact.source["sha256"] for model in models if "sha256" in model.artifact.source}
    if source is None and len(made_from) > 1:
        return "their manifests tell different sources; name the one that they shall be held against with --source"
    return None


def _alike(mine: Sequence[Port], theirs: Sequence[Port]) -> bool:
    """True where names, types and ranks agree, and every axis that both have fixed."""
    others = {port.name: port for port in theirs}
    if others.keys() != {port.name for port in mine}:
        return False
    pairs = [(port, others[port.name]) for port in mine]
    return all(a.dtype == b.dtype and len(a.shape) == len(b.shape) and _fit(a.shape, b.shape) for a, b in pairs)


def _fit(a: Sequence[int | str], b: Sequence[int | str]) -> bool:
    return all(x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int))


def _source(source: "Task | None", files: Sequence[Side]) -> Iterator[Side]:
    """The source as a side; one that rounds as a file does has that file's precision."""
    if source is not None:
        from .fidelity import run_batch

        model = source.model
        same = [side.precision for side in files if model.history and same_steps(side.history, model.history)]
        precision = max(same, key=PRECISIONS.index, default="float32")
        yield Side(SOURCE, "torch", precision, model.history, remembered(lambda inputs: run_batch(model, inputs)))


def _side(name: str, model: LoadedModel) -> Side:
    artifact = model.artifact
    run = remembered(lambda inputs: model(**inputs))
    return Side(name, artifact.format, precision_of(artifact), artifact.history, run)


def remembered(run: Run) -> Run:
    """`run`, which computes the same inputs once: the score and the matrix ask for the same."""
    answers: dict[str, Arrays] = {}

    def answer(inputs: Arrays) -> Arrays:
        key = fingerprint(inputs)
        if key not in answers:
            answers[key] = run(inputs)
        return answers[key]

    return answer


def _scored(side: Side, score: "Score", tell: Tell) -> Side:
    tell(f"parity: the score of {side.name}")
    try:
        return replace(side, score=score(lambda **inputs: side.run(inputs)))
    except PortError:  # a file of fixed shapes, and longer samples
        return side


def _tokenizers(models: Mapping[str, LoadedModel], source: "Task | None") -> dict[str, Any]:
    """What each side that has one tokenizes with, the source first."""
    found = {name: model.artifact.asset(TOKENIZER) for name, model in models.items()}
    contents = {name: path.read_bytes() for name, path in found.items() if path is not None}
    if source is not None and TOKENIZER in source.model.assets:
        contents = {SOURCE: source.model.assets[TOKENIZER]} | contents
    return {name: read_tokenizer(content, name) for name, content in contents.items()}


def _differing_assets(models: Mapping[str, LoadedModel], source: "Task | None") -> Iterator[str]:
    """A line for each file that ships along, as `labels.json`, and is not the same everywhere; tokenizers are tried."""
    held: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        for file in model.artifact.files:
            if file.role == "asset" and file.name != TOKENIZER:
                held.setdefault(file.name, {})[name] = file.sha256
    for asset, content in (source.model.assets if source is not None else {}).items():
        held.setdefault(asset, {})[SOURCE] = hashlib.sha256(content).hexdigest()
    for asset, hashes in held.items():
        if asset != TOKENIZER and len(set(hashes.values())) > 1:
            yield f"{asset} is not the same in {', '.join(hashes)}"


def _samples(
    models: Mapping[str, LoadedModel], first: Side, source: "Task | None", tokenizer: Any
) -> tuple[list[Sample], tuple[str, ...]]:
    """What all files take, and in words what was left out."""
    ports = next(iter(models.values())).inputs
    limits = _limits(models)
    natural = golden_samples([model.artifact for model in models.values()])
    if source is not None:
        natural += [Sample("data", inputs) for inputs in _data(first, source)]
    fitting = [sample for sample in natural if fits(ports, sample.inputs, limits)]
    left = len(natural) - len(fitting)
    fitting = fitting or [Sample("invented", {port.name: invent(port) for port in ports})]
    longest = ", ".join(f"{label} {size}" for label, size in limits.items())
    notes = (f"{left} samples are longer than a file takes ({longest}), and were left out",) if left else ()
    encode = None if tokenizer is None else text_encoder(tokenizer, ports, limits)
    return [*fitting, *unnatural_samples(ports, fitting, limits, encode)], notes


def _limits(models: Mapping[str, LoadedModel]) -> dict[str, int]:
    """The longest lengths that all files take, by a free axis's name."""
    limits: dict[str, int] = {}
    for model in models.values():
        pieces = {port.shape[0] for port in model.inputs if port.shape}  # what is cut into pieces may have any length
        for label, lengths in model.engine.needs.get("lengths", {}).items():
            if label not in pieces:
                limits[label] = min(max(lengths), limits.get(label, max(lengths)))
        for label, longest in model.engine.needs.get("longest", {}).items():
            limits[label] = min(longest, limits.get(label, longest))
    return limits


def _data(side: Side, source: "Task") -> list[Arrays]:
    """The samples that the score judges, as it hands them over; else those of the calibration."""
    seen: list[Arrays] = []

    def session(**inputs: np.ndarray) -> Arrays:
        seen.append(inputs)
        return side.run(inputs)

    if source.data.score is not None:
        source.data.score(session)
    return seen or [dict(batch) for batch in source.data.calibration]
