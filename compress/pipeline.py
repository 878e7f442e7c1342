"""compress: export the model as it came and after each pass that pays, run all on the device, compare."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..devices.budget import Budget, Verdict, judge, misses_of_all
from ..devices.device import Device
from ..devices.measure import Row, measure, refuse_other_formats
from ..devices.report import Report, refuse_foreign, save, to_json
from ..export.formats import EXPORTERS, export
from ..export.model import Model
from ..runtime.artifact import Artifact, check, known_formats, read_artifact
from ..runtime.errors import ArtifactError, UnsupportedError, UsageError
from ..runtime.family import Family, Measured, member_of, write_family
from ..runtime.files import refuse_existing, replace_folder
from . import ranks
from .data import Data
from .placed import shares
from .ranks import from_first
from .recipe import TRAINS, Pass, Recipe
from .source import Task
from .verified import to_dict, wrong
from .verify import Verified, verify

Tell = Callable[[str], None]

# What a run has finished lies in `out/.edgepress-work-NAME-RECIPE` until it is complete; one that was killed goes on
# from there, and another model's or recipe's run may write into the same `out` meanwhile.
WORK = ".edgepress-work"

# Training batches that tell one training set from another.
_SEEN = 4


@dataclass(frozen=True)
class _Stage:
    """A model that may ship: made when it is needed, found again by the hash of what it was made from."""

    key: str
    make: Callable[[], Model]
    artifact: Artifact


@dataclass
class _Run:
    """One call of `compress`: what it was asked for, and the rows so far, the baseline first."""

    model: Model
    recipe: Recipe
    data: Data
    to: tuple[str, ...]
    on: Device
    budget: Budget
    out: Path
    tell: Tell
    rows: list[Row] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    verified: Verified | None = None  # of a family

    @property
    def work(self) -> Path:
        return self.out / f"{WORK}-{self.model.name}-{self.recipe.name}"

    def measure(self, *artifacts: Artifact, runs: int = 100) -> tuple[Row, ...]:
        score, known, tell = self.data.score, self.rows, self.tell
        return from_first(
            lambda: measure(artifacts, self.on, score=score, runs=runs, known=known, shares=shares, on_progress=tell)
        )

    def report(self) -> Report:
        title = f"{self.model.name}, recipe {self.recipe.name}, on {self.on.name}"
        unfinished = ("not judged yet: the run is not finished",)
        return Report(title, self.on, tuple(self.rows), str(self.budget), unfinished, idle=tuple(self.idle))


def compress(
    model: Model,
    recipe: Recipe,
    data: Data,
    *,
    to: str,
    on: Device,
    budget: Budget,
    out: Path,
    force: bool = False,
    tell: Tell = lambda text: None,
) -> Report:
    """Export the model as it came and after each pass, measure them on `on` in turn, keep what pays, compare.

    Leaves `out/NAME-fp32`, `out/NAME-RECIPE` where a pass paid, and `out/report.html`, `.md` and `.json`, written anew
    after each pass. A pass that makes nothing smaller or faster, or that costs more than `budget` allows, is undone and
    told in the report. One that loses too much, and nothing else, is judged again with the passes after it, as long as
    one of those trains.
    `to` is a format, or several with commas between: the passes are judged on the first, then what was kept is exported
    to the others too, and `out/NAME-RECIPE` is the family of them, all with the same integers.
    Raises UsageError where an artifact exists and `force` is not set, UnsupportedError where a format cannot express
    what the recipe makes.

    >>> compress(task.model, find_recipe("int8"), task.data, to="onnx", on=find_device("host"),
    ...          budget=parse_budget("size<1MB"), out=Path("out")).fits
    True
    """
    formats = known_formats(to, EXPORTERS)
    refuse_other_formats(formats, on)
    passes = recipe.targeting(on, *formats).passes
    ranks.join()
    first, result = from_first(lambda: places(model, recipe, out, force=force))
    run = _Run(model, recipe, data, formats, on, budget, out, tell)
    baseline = _stage(run, _fingerprint(model, data, formats[0]), lambda: model, first.name)
    stages, kept, latest = [baseline], baseline, baseline
    hurt: dict[int, Verdict] = {}  # by row: the passes between `kept` and `latest`, which lost too much so far
    run.rows += run.measure(baseline.artifact, runs=1)  # does the device answer? latencies are taken with each pass
    for index, (name, step) in enumerate(passes):
        if not any(later in TRAINS for later, _ in passes[index:]):
            latest, hurt = kept, {}
        candidate = _apply(run, latest, name, step, len(stages))
        if candidate is None:
            run.idle.append(name)
            continue
        stages.append(candidate)
        verdict = _judge(run, baseline, kept, candidate)
        tell(f"{name}: {verdict.why}")
        if verdict.kept:
            for row, lost in hurt.items():
                run.rows[row] = replace(run.rows[row], kept=True, why=lost.healed(name))
            kept, latest, hurt = candidate, candidate, {}
        elif verdict.healable:
            latest, hurt = candidate, {**hurt, len(run.rows) - 1: verdict}
        from_first(lambda: save(run.report(), out))  # what was measured stays, whatever happens to the next pass
    others = [] if kept is baseline else [_in_format(run, kept, form) for form in formats[1:]]
    # a report compares within one run, and the baseline alone was run once
    if others or len(stages) == 1 or len({row.timing.run for row in run.rows if row.timing is not None}) > 1:
        final = run.measure(*(stage.artifact for stage in (*stages, *others)))
        judged = [(row.kept, row.why) for row in run.rows] + [(True, "") for _ in others]
        run.rows = [replace(row, kept=kept, why=why) for row, (kept, why) in zip(final, judged, strict=True)]
    moves = {baseline.artifact.path: first}
    if kept is not baseline:
        members = [stage.artifact for stage in (kept, *others)]
        moves |= {member.path: result / member.format if others else result for member in members}
        run.verified = from_first(lambda: _verified(run, kept.make, members)) if others else None
    return from_first(lambda: _ship(run, moves, result))


def places(model: Model, recipe: Recipe, out: Path, *, force: bool) -> tuple[Path, Path]:
    """Where the baseline and the result will lie; raises UsageError where one is taken and `force` is not set."""
    first, result = out / f"{model.name}-fp32", out / f"{model.name}-{recipe.name}"
    if first == result:
        raise UsageError(f"a recipe named {recipe.name} would take the place of the baseline; name its file otherwise")
    for path in (first, result):
        refuse_existing(path, force=force)
    refuse_foreign(out)
    return first, result


def _stage(run: _Run, key: str, make: Callable[[], Model], name: str, to: str = "") -> _Stage:
    """Export a model (to the first format), or find what an interrupted run has exported of it already."""
    to = to or run.to[0]
    path = run.work / key / name
    found = from_first(lambda: _exported(path))
    if found is not None:
        run.tell(f"{name}: exported already, by a run that was interrupted")
        return _Stage(key, make, found)
    model = make()
    run.tell(f"exporting {name} to {to}")
    return _Stage(key, lambda: model, from_first(lambda: export(model, to, path, force=True)))


def _in_format(run: _Run, kept: _Stage, form: str) -> _Stage:
    """The stage that is kept, in another format."""
    try:
        return _stage(run, kept.key, kept.make, f"{kept.artifact.path.name}-{form}", form)
    except UnsupportedError as error:
        raise UnsupportedError(f"{form} cannot hold what {run.to[0]} holds: {error}; or leave {form} out") from error


def _exported(path: Path) -> Artifact | None:
    """The artifact at `path`, whole; None where there is none."""
    try:
        artifact = read_artifact(path)
        check(artifact)
    except ArtifactError:
        return None
    return artifact


def _apply(run: _Run, before: _Stage, name: str, step: Pass, index: int) -> _Stage | None:
    """The stage after a pass; None where the pass changes nothing."""
    key = _hash(before.key, name, json.dumps(asdict(step), sort_keys=True))  # pyright: ignore[reportArgumentType]
    label = f"{index}-{name}"
    idle = run.work / key / "nothing-to-do"
    if from_first(idle.exists):
        return None
    made: list[Model] = []

    def make() -> Model:
        if not made:
            run.tell(f"pass {name}")
            made.append(step(before.make(), replace(run.data, checkpoints=run.work / key / "training", tell=run.tell)))
        return made[0]

    if not from_first((run.work / key / label).exists) and len(make().history) == len(before.make().history):
        idle.parent.mkdir(parents=True, exist_ok=True)
        idle.touch()
        return None
    return _stage(run, key, make, label)


def _judge(run: _Run, baseline: _Stage, kept: _Stage, candidate: _Stage) -> Verdict:
    """Measure a candidate in turn with what is kept and the baseline, add its row, and say whether it pays."""
    before = [baseline.artifact, *([kept.artifact] if kept is not baseline else [])]
    *measured, row = run.measure(*before, candidate.artifact)
    verdict = judge(row, measured[-1], measured[0], run.budget)
    fresh = {again.path: again for again in measured}
    run.rows = [replace(fresh.get(old.path, old), kept=old.kept, why=old.why) for old in run.rows]
    run.rows.append(replace(row, kept=verdict.kept, why=verdict.why))
    return verdict


def _ship(run: _Run, places: Mapping[Path, Path], result: Path) -> Report:
    """Put the artifacts in their places, the baseline's being the first, and write the report.

    What ships is `result`, an artifact or a family; the baseline where no pass paid.
    """
    first, *members = places.items()
    rows = [replace(row, path=places.get(row.path, row.path)) for row in run.rows]
    run.rows = [_renamed(row, run.out) if row.path in places.values() else row for row in rows]
    ships = [row for row in run.rows if row.path in [place for _, place in members or [first]]]
    name = ships[0].name if len(ships) == 1 else result.name
    missed = misses_of_all(ships, run.rows[0], run.budget)
    parted = () if run.verified is None else tuple(wrong(run.verified))
    report = replace(run.report(), ships=name, misses=(*missed, *parted))
    save(report, run.out)  # first: where the disk is full, the artifacts stay where the same command finds them
    moves = dict([first, *members])
    if len(members) > 1:
        moves = dict([first, (_family(run, dict(members), ships, report), result)])
    for source, place in moves.items():
        replace_folder(source, place)
    if result not in moves.values() and result.is_dir():
        shutil.rmtree(result)  # --force was given, and this time no pass paid
    shutil.rmtree(run.work)
    return report


def _verified(run: _Run, make: Callable[[], Model], members: Sequence[Artifact]) -> Verified:
    """The members held against each other and against the model that they were made from."""
    paths, formats = [member.path for member in members], [member.format for member in members]
    return verify(paths, Task(make(), run.data), run.tell, names=formats, scored=False)


def _renamed(row: Row, out: Path) -> Row:
    return replace(row, name=row.path.relative_to(out).as_posix())


def _family(run: _Run, members: Mapping[Path, Path], rows: Sequence[Row], report: Report) -> Path:
    """A folder that the members have moved into, each under its last name, with what was measured of them."""
    folder = run.work / "family"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir()
    found = {}
    for row, (source, place) in zip(rows, members.items(), strict=True):
        p50 = None if row.timing is None else row.timing.p50
        found[row.format] = replace(member_of(read_artifact(source), p50), folder=place.name)
    parity = None if run.verified is None else to_dict(run.verified)["parity"]
    write_family(Family(folder, found, _measured(run, rows[0]), parity, json.loads(to_json(report))))
    for source, place in members.items():
        source.rename(folder / place.name)
    return folder


def _measured(run: _Run, row: Row) -> Measured | None:
    """Where a row was timed."""
    if row.timing is None:
        return None
    machine = row.timing.machine
    return Measured(run.on.name, machine.arch, machine.cpu, machine.cores, row.timing.threads)


def _fingerprint(model: Model, data: Data, to: str) -> str:
    """A hash of what goes into a run: weights, example, names, calibration data, the first of the training data."""
    state = {name: tensor.detach().contiguous().numpy() for name, tensor in model.module.state_dict().items()}
    parts: list[Any] = [to, model.name, repr(model.module), repr(data.student), repr(model.outputs), repr(model.axes)]
    parts.append(repr(sorted(model.lengths.items())))
    example = {name: tensor.numpy() for name, tensor in model.example.items()}
    learned = data.training(0) if callable(data.training) else data.training
    for batch in (state, example, *data.calibration, *islice(learned, _SEEN)):
        for name, array in batch.items():
            parts += [name, str(array.dtype), repr(array.shape), np.ascontiguousarray(array).tobytes()]
    return _hash(*parts)


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]
