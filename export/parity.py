"""Parity: the files of one model held against each other, and against their source, on the same inputs.

    cos(a, b) = ⟨a, b⟩ / (‖a‖ ‖b‖) of a sample's output,     difference = max|a − b| / max|a|
    top-1: the share of samples with the same largest logit,  KL = E[Σ p_a log(p_a / p_b)], p = softmax(logits)

Each pair is held to limits that follow from its precisions (precision.py). Natural inputs decide about the mean;
unnatural ones (zeros, extremes, shortest and longest) must stay finite and near.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ..runtime.artifact import Step
from ..runtime.errors import EdgepressError, UsageError
from .precision import Limits, limits

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]

# Recorded with the file, judged by the score; and, where there is neither, whatever fits the ports.
NATURAL = ("golden", "data", "invented")


@dataclass(frozen=True, eq=False)
class Sample:
    """One call: what it tries (one of NATURAL, or the name of something unnatural), and its inputs by name."""

    kind: str
    inputs: Arrays

    @property
    def natural(self) -> bool:
        """True where the model was made for such inputs."""
        return self.kind in NATURAL


@dataclass(frozen=True, eq=False)
class Side:
    """One file, or the source: how to run it, its precision, and the steps that made it; `score` is its own."""

    name: str
    format: str
    precision: str
    history: tuple[Step, ...]
    run: Run
    score: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two sides compared. `top1` and `kl` are None where the output is no logits, `limits` for other networks.

    `difference` and the worst cosine are those of all samples, `worst` is the number of the sample with that cosine.
    `breaches` are the limits that were broken, in words.
    """

    a: str
    b: str
    cosine: float
    worst_cosine: float
    difference: float
    top1: float | None
    kl: float | None
    worst: int
    limits: Limits | None
    breaches: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """The matrix: all sides, and a pair for each two of them, in the order in which the sides were given."""

    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    samples: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """True where no pair breaks a limit."""
        return not any(pair.breaches for pair in self.pairs)


def hold(sides: Sequence[Side], samples: Sequence[Sample], tell: Callable[[str], None] = lambda text: None) -> Parity:
    """Run every side on every sample and compare each with each.

    Raises UsageError where there are not two sides, no natural sample, or two of one name.

    >>> hold([onnx, tflite], samples).pairs[0].cosine
    0.99999
    """
    if len(sides) < 2:
        raise UsageError("parity takes two files at least, or one and --source MODEL")
    if len({side.name for side in sides}) < len(sides):
        raise UsageError(f"parity got {', '.join(side.name for side in sides)}; expected different names")
    if not any(sample.natural for sample in samples):
        raise UsageError("parity has no samples: the artifacts hold no golden ones; bring --source MODEL, with --data")
    outputs = {}
    for side in sides:
        tell(f"parity: running {side.name}")
        outputs[side.name] = [_run(side, sample) for sample in samples]
    pairs = tuple(_pair(a, b, samples, outputs[a.name], outputs[b.name]) for a, b in combinations(sides, 2))
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.kind] = counts.get(sample.kind, 0) + 1
    return Parity(tuple(sides), pairs, counts)


def _run(side: Side, sample: Sample) -> Arrays | str:
    """The outputs, or why there are none."""
    try:
        return side.run(sample.inputs)
    except EdgepressError as error:
        return str(error)


def _pair(
    a: Side, b: Side, samples: Sequence[Sample], left: Sequence[Arrays | str], right: Sequence[Arrays | str]
) -> Pair:
    held = limits((a.precision, a.history), (b.precision, b.history))
    seen: dict[int, Comparison] = {}
    breaches: list[str] = []
    for number, (sample, x, y) in enumerate(zip(samples, left, right, strict=True)):
        if not isinstance(x, str) and not isinstance(y, str):
            if x.keys() != y.keys():
                raise UsageError(f"{a.name} gives {_names(x)}, {b.name} gives {_names(y)}; expected files of one model")
            seen[number] = compare(x, y)
        elif isinstance(x, str) != isinstance(y, str):
            name, why = (a.name, x) if isinstance(x, str) else (b.name, y)
            breaches.append(f"{name} does not take the sample {sample.kind!r}: {why}")
    natural = [found for number, found in seen.items() if samples[number].natural]
    if not natural:
        raise UsageError(f"{a.name} and {b.name} take no sample both; expected files of one model")
    worst = min(seen, key=lambda number: float(seen[number].cosines.min()))
    mean = float(np.concatenate([found.cosines for found in natural]).mean())
    least, difference = float(seen[worst].cosines.min()), max(found.difference for found in seen.values())
    if held is not None:
        breaches += _breaches(held, mean, least, difference, samples[worst].kind)
    top1, kl = (_mean([getattr(found, name) for found in natural]) for name in ("same_top1", "kl"))
    return Pair(a.name, b.name, mean, least, difference, top1, kl, worst, held, tuple(breaches))


def _mean(rows: Sequence[np.ndarray]) -> float | None:
    """Over the rows of all samples; None where there are none."""
    joined = np.concatenate(rows)
    return float(joined.mean()) if joined.size else None


def _breaches(held: Limits, mean: float, worst: float, difference: float, kind: str) -> list[str]:
    found = []
    if not mean >= held.cosine:
        found.append(f"mean cosine {mean:.5f}, below {held.cosine}")
    if not worst >= held.worst_cosine:
        found.append(f"cosine {worst:.5f} for a sample of {kind!r}, below {held.worst_cosine}")
    if held.difference is not None and not difference <= held.difference:
        found.append(f"difference {difference:.1e}, above {held.difference:.0e}")
    return found


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two answers to one sample: the cosine of each row of each output, and the largest difference of any.

    `same_top1` and `kl` have a number for each row of `logits`, none where there are none.
    """

    cosines: np.ndarray
    difference: float
    same_top1: np.ndarray
    kl: np.ndarray


def compare(x: Arrays, y: Arrays) -> Comparison:
    """Outputs of other shapes, or not finite on one side only, have the cosine -1 and an infinite difference."""
    pairs = [(np.asarray(x[name]), np.asarray(y[name])) for name in x]
    cosines = np.concatenate([_cosines(a, b) for a, b in pairs])
    difference = max(_difference(a, b) for a, b in pairs)
    if "logits" not in x or not np.isfinite(difference):
        return Comparison(cosines, difference, np.empty(0), np.empty(0))
    same_top1 = (x["logits"].argmax(-1) == y["logits"].argmax(-1)).ravel()  # of a language model: at each position
    p, q = (_log_softmax(side["logits"].astype(np.float64)) for side in (x, y))
    return Comparison(cosines, difference, same_top1, (np.exp(p) * (p - q)).sum(-1).ravel())


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row; two rows of zeros are alike."""
    if not _alike(a, b):
        return np.array([-1.0])
    x, y = (_finite(side).reshape(len(side) if side.ndim > 1 else 1, -1) for side in (a, b))
    lengths = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    zeros = (lengths[0] == 0) & (lengths[1] == 0)
    return np.where(zeros, 1.0, np.clip((x * y).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-300), -1, 1))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if not _alike(a, b):
        return float("inf")
    x, y = _finite(a), _finite(b)
    return float(np.abs(x - y).max(initial=0.0) / max(float(np.abs(x).max(initial=0.0)), 1e-12))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """True where shapes agree, and where what is not finite is the same on both sides."""
    if a.shape != b.shape:
        return False
    open_ = ~(np.isfinite(a) & np.isfinite(b))
    return np.array_equal(a[open_], b[open_], equal_nan=True)


def _finite(array: np.ndarray) -> np.ndarray:
    """As float64, with 0 for what is not finite: both sides have the same there."""
    x = array.astype(np.float64)
    return np.where(np.isfinite(x), x, 0.0)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _names(outputs: Arrays) -> str:
    return ", ".join(outputs)


def as_dict(parity: Parity) -> dict[str, Any]:
    """The matrix for JSON."""
    return {
        "samples": dict(parity.samples),
        "sides": [
            {"name": s.name, "format": s.format, "precision": s.precision, "score": dict(s.score)} for s in parity.sides
        ],
        "pairs": [
            {
                "a": p.a, "b": p.b, "cosine": p.cosine, "worst_cosine": p.worst_cosine, "difference": p.difference,
                "top1": p.top1, "kl": p.kl, "breaches": list(p.breaches),
                "limits": None if p.limits is None else vars(p.limits),
            }
            for p in parity.pairs
        ],
        "passed": parity.passed,
    }  # fmt: skip
