"""Samples to hold files against each other on: what they were made for, and what users send all the same."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..export.parity import Arrays, Sample
from ..runtime.artifact import GOLDEN, Artifact, Port
from ..runtime.golden import read_golden

# Texts that tokenizers and models trip over; the last one is longer than most models take.
TEXTS: Mapping[str, str] = {
    "empty text": "",
    "one letter": "a",
    "Chinese": "今天天气很好，我们去公园散步吧。",
    "Arabic": "السلام عليكم ورحمة الله",
    "Cyrillic": "Съешь же ещё этих мягких французских булок",
    "emoji": "👩‍👩‍👧 is 100 % 🎉",
    "combining marks": "Zoe\u0308 cafe\u0301 A\u030a",
    "code": "for i in range(10):\n\tx[i] += 0x1F  # bits",
    "long text": "The quick brown fox jumps over the lazy dog. " * 60,
}
_TOGETHER = 5  # samples in a batch

Encode = Callable[[str], Arrays]


def golden_samples(artifacts: Sequence[Artifact]) -> list[Sample]:
    """The golden inputs of all the artifacts, each once. Raises ArtifactError where they are damaged."""
    paths = [artifact.asset(GOLDEN) for artifact in artifacts]
    cases = [case for path in paths if path is not None for case in read_golden(path)]
    return list({fingerprint(case.inputs): Sample("golden", case.inputs) for case in cases}.values())


def unnatural_samples(
    ports: Sequence[Port], natural: Sequence[Sample], limits: Mapping[str, int], encode: Encode | None
) -> Iterator[Sample]:
    """Zeros, extremes, batches of 1 and of 5, the shortest and the longest, and texts; of what the ports have.

    `limits` are the longest lengths that all files take, by a free axis's name; without one nothing is made longer.
    `encode` makes inputs of a text, None where the model has no tokenizer.
    """
    first = dict(natural[0].inputs)
    floats = [port.name for port in ports if np.dtype(port.dtype).kind == "f"]
    if floats:
        yield Sample("zeros", first | {name: np.zeros_like(first[name]) for name in floats})
        yield Sample("extremes", first | {name: _extremes(name, natural) for name in floats})
    if all(isinstance(port.shape[0], str) for port in ports if port.shape):
        one = {name: array[:1] if array.ndim else array for name, array in first.items()}
        yield Sample("batch of 1", one)
        yield Sample(
            f"batch of {_TOGETHER}", {name: np.repeat(a, _TOGETHER, 0) if a.ndim else a for name, a in one.items()}
        )
        for label in {axis for port in ports for axis in port.shape[1:] if isinstance(axis, str)}:
            yield Sample(f"shortest {label}", _lengthened(ports, one, label, 2))
            if label in limits:
                yield Sample(f"longest {label}", _lengthened(ports, one, label, limits[label]))
    if encode is not None:
        for kind, text in TEXTS.items():
            yield Sample(kind, encode(text))


def fits(ports: Sequence[Port], inputs: Arrays, limits: Mapping[str, int]) -> bool:
    """True where no free axis of the inputs is longer than its limit."""
    sizes = [(name, size) for port in ports for name, size in zip(port.shape, inputs[port.name].shape, strict=False)]
    return all(size <= limits.get(name, size) for name, size in sizes if isinstance(name, str))


def _extremes(name: str, natural: Sequence[Sample]) -> np.ndarray:
    """The smallest and the largest value that was seen, each element one of them, by a seeded draw."""
    low = min(float(sample.inputs[name].min(initial=0.0)) for sample in natural)
    high = max(float(sample.inputs[name].max(initial=0.0)) for sample in natural)
    array = natural[0].inputs[name]
    return np.random.default_rng(0).choice([low, high], array.shape).astype(array.dtype)


def _lengthened(ports: Sequence[Port], inputs: Arrays, label: str, size: int) -> Arrays:
    """The inputs with this free axis cut, or repeated, to `size`."""
    found = dict(inputs)
    for port in ports:
        for axis, name in enumerate(port.shape):
            if name == label:
                array = found[port.name]
                found[port.name] = np.take(array, np.arange(size) % array.shape[axis], axis)
    return found


def fingerprint(inputs: Arrays) -> str:
    """A hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(inputs.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
