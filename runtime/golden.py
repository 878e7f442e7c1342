"""Golden samples: a few inputs and the outputs that the file gave where it was made, replayed where it runs."""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ArtifactError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One call: inputs by name, and the outputs by name that it gave."""

    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class SelfTest:
    """What a replay saw: the largest difference of any output, relative to its largest golden magnitude."""

    cases: int
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True where every output lies within the tolerance; NaN never does."""
        return self.cases > 0 and self.difference <= self.tolerance


def write_golden(path: Path, cases: Iterable[Case]) -> None:
    """Write cases to a compressed `.npz` with keys `INDEX/in/NAME` and `INDEX/out/NAME`."""
    arrays = {
        f"{i}/{side}/{name}": array
        for i, case in enumerate(cases)
        for side, group in (("in", case.inputs), ("out", case.outputs))
        for name, array in group.items()
    }
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType] - stubs want allow_pickle first


def read_golden(path: Path) -> tuple[Case, ...]:
    """Read what `write_golden` wrote. Raises ArtifactError where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read as golden samples ({error}); export the model again") from error
    found: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for key, array in arrays.items():
        index, side, name = key.split("/", 2)
        found.setdefault(int(index), {"in": {}, "out": {}})[side][name] = array
    return tuple(Case(found[i]["in"], found[i]["out"]) for i in sorted(found))


def replay(run: Callable[[Arrays], Arrays], cases: Iterable[Case], tolerance: float) -> SelfTest:
    """Run every case and compare with its golden outputs."""
    worst, count = 0.0, 0
    for case in cases:
        outputs = run(case.inputs)
        differences = [difference(outputs[name], golden) for name, golden in case.outputs.items()]
        worst = float(np.max([worst, *differences]))
        count += 1
    return SelfTest(count, worst, tolerance)


def difference(output: np.ndarray, golden: np.ndarray) -> float:
    """`max|y - g| / max|g|`; infinite where shapes differ or a value is not finite."""
    if output.shape != golden.shape:
        return float("inf")
    y, g = output.astype(np.float64), golden.astype(np.float64)
    if not (np.isfinite(y).all() and np.isfinite(g).all()):
        return 0.0 if np.array_equal(y, g, equal_nan=True) else float("inf")
    if not y.size:
        return 0.0
    distance = float(np.abs(y - g).max())
    return distance / max(float(np.abs(g).max()), 1e-12) if distance else 0.0
