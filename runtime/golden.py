"""Golden samples: a few inputs and the outputs that the file gave where it was made, replayed where it runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import DAMAGE
from .errors import ArtifactError, UnsupportedError

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
    """Write cases to a compressed `.npz` with keys `INDEX/in/NAME` and `INDEX/out/NAME`.

    Raises UnsupportedError for strings and other objects, which NumPy would have to pickle.
    """
    arrays = {
        f"{i}/{side}/{name}": array
        for i, case in enumerate(cases)
        for side, group in (("in", case.inputs), ("out", case.outputs))
        for name, array in group.items()
    }
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise UnsupportedError(f"golden samples hold no {array.dtype} arrays, as {key.split('/', 2)[2]!r} is one")
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType] - stubs want allow_pickle first


def read_golden(path: Path) -> tuple[Case, ...]:
    """Read what `write_golden` wrote. Raises ArtifactError where the file is missing or damaged."""
    found: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    try:
        # Given a path, np.load leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            for key in archive.files:
                index, side, name = key.split("/", 2)
                found.setdefault(int(index), {"in": {}, "out": {}})[side][name] = archive[key]
    except DAMAGE as error:
        raise ArtifactError(f"{path} cannot be read as golden samples ({error}); export the model again") from error
    if not all(case["out"] for case in found.values()):
        raise ArtifactError(f"{path} has a golden sample without outputs; export the model again")
    return tuple(Case(found[i]["in"], found[i]["out"]) for i in sorted(found))


def first_inputs(path: Path) -> Arrays:
    """The inputs of the first case, which is one sample. Raises ArtifactError where there is none."""
    cases = read_golden(path)
    if not cases:
        raise ArtifactError(f"{path} holds no golden samples; export the model again")
    return cases[0].inputs


def replay(run: Callable[[Arrays], Arrays], cases: Iterable[Case], tolerance: float) -> SelfTest:
    """Run every case and compare with its golden outputs. Raises ArtifactError where an output is not given at all."""
    worst, count = 0.0, 0
    for case in cases:
        outputs = run(case.inputs)
        if missing := case.outputs.keys() - outputs.keys():
            raise ArtifactError(f"the model gives no output {sorted(missing)}, the golden samples do; export it again")
        differences = [difference(outputs[name], golden) for name, golden in case.outputs.items()]
        worst = float(np.max([worst, *differences]))
        count += 1
    return SelfTest(count, worst, tolerance)


def difference(output: np.ndarray, golden: np.ndarray) -> float:
    """`max|y - g| / max|g|`; infinite where shapes differ, or where only one is finite (masks hold -inf in both)."""
    if output.shape != golden.shape:
        return float("inf")
    y, g = output.astype(np.float64), golden.astype(np.float64)
    finite = np.isfinite(y) & np.isfinite(g)
    if not np.array_equal(y[~finite], g[~finite], equal_nan=True):
        return float("inf")
    y, g = y[finite], g[finite]
    with np.errstate(over="ignore"):  # float64 outputs can lie further apart than float64 reaches
        distance = float(np.abs(y - g).max(initial=0.0))
    return distance / max(float(np.abs(g).max()), 1e-12) if distance else 0.0
