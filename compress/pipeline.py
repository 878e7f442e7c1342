"""compress: export the model as it came and after each pass that pays, run all on the device, compare."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..devices.budget import Budget, Verdict, judge, misses
from ..devices.device import Device
from ..devices.measure import Row, measure
from ..devices.report import Report, refuse_foreign, save
from ..export.formats import EXPORTERS, export
from ..export.model import Model
from ..runtime.artifact import Artifact, check, known_format, read_artifact
from ..runtime.errors import ArtifactError, UsageError
from ..runtime.files import refuse_existing, replace_folder
from . import ranks
from .data import Data
from .ranks import from_first
from .recipe import TRAINS, Pass, Recipe

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
    to: str
    on: Device
    budget: Budget
    out: Path
    tell: Tell
    rows: list[Row] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.out / f"{WORK}-{self.model.name}-{self.recipe.name}"

    def measure(self, *artifacts: Artifact, runs: int = 100) -> tuple[Row, ...]:
        score, known, tell = self.data.score, self.rows, self.tell
        return from_first(lambda: measure(artifacts, self.on, score=score, runs=runs, known=known, on_progress=tell))

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

    Leaves `out/NAME-fp32`, `out/NAME-RECIPE` where a pass paid, `out/report.json` and `out/report.md`. A pass that
    makes nothing smaller or faster, or that costs more than `budget` allows, is undone and told in the report. One that
    loses too much, and nothing else, is judged again with the passes after it, as long as one of those trains.
    Raises UsageError where an artifact exists and `force` is not set.

    >>> compress(task.model, find_recipe("int8"), task.data, to="onnx", on=find_device("host"),
    ...          budget=parse_budget("size<1MB"), out=Path("out")).fits
    True
    """
    known_format(to, EXPORTERS)
    ranks.join()
    first, result = from_first(lambda: places(model, recipe, out, force=force))
    run = _Run(model, recipe, data, to, on, budget, out, tell)
    baseline = _stage(run, _fingerprint(model, data, to), lambda: model, first.name)
    stages, kept, latest = [baseline], baseline, baseline
    hurt: dict[int, Verdict] = {}  # by row: the passes between `kept` and `latest`, which lost too much so far
    run.rows += run.measure(baseline.artifact, runs=1)  # does the device answer? latencies are taken with each pass
    passes = recipe.targeting(on, to).passes
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
    # a report compares within one run, and the baseline alone was run once
    if len(stages) == 1 or len({row.timing.run for row in run.rows if row.timing is not None}) > 1:
        final = run.measure(*(stage.artifact for stage in stages))
        run.rows = [replace(new, kept=old.kept, why=old.why) for new, old in zip(final, run.rows, strict=True)]
    ships = {baseline.artifact.path: first} | {kept.artifact.path: first if kept is baseline else result}
    return from_first(lambda: _ship(run, ships))


def places(model: Model, recipe: Recipe, out: Path, *, force: bool) -> tuple[Path, Path]:
    """Where the baseline and the result will lie; raises UsageError where one is taken and `force` is not set."""
    first, result = out / f"{model.name}-fp32", out / f"{model.name}-{recipe.name}"
    if first == result:
        raise UsageError(f"a recipe named {recipe.name} would take the place of the baseline; name its file otherwise")
    for path in (first, result):
        refuse_existing(path, force=force)
    refuse_foreign(out)
    return first, result


def _stage(run: _Run, key: str, make: Callable[[], Model], name: str) -> _Stage:
    """Export a model, or find what an interrupted run has exported of it already."""
    path = run.work / key / name
    found = from_first(lambda: _exported(path))
    if found is not None:
        run.tell(f"{name}: exported already, by a run that was interrupted")
        return _Stage(key, make, found)
    model = make()
    run.tell(f"exporting {name} to {run.to}")
    return _Stage(key, lambda: model, from_first(lambda: export(model, run.to, path, force=True)))


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


def _ship(run: _Run, places: Mapping[Path, Path]) -> Report:
    """Put the artifacts in place, the last one being what ships, and write the report."""
    rows = [replace(row, path=places.get(row.path, row.path)) for row in run.rows]
    run.rows = [replace(row, name=row.path.name) if row.path in places.values() else row for row in rows]
    ships = next(row for row in run.rows if row.path == [*places.values()][-1])
    report = replace(run.report(), ships=ships.name, misses=misses(ships, run.rows[0], run.budget))
    save(report, run.out)  # first: where the disk is full, the artifacts stay where the same command finds them
    for source, place in places.items():
        replace_folder(source, place)
    stale = run.out / f"{run.model.name}-{run.recipe.name}"
    if stale not in places.values() and stale.is_dir():
        shutil.rmtree(stale)  # --force was given, and this time no pass paid
    shutil.rmtree(run.work)
    return report


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
