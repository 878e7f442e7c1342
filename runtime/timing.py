"""Timing: what the runs of one artifact took, with every sample, as a value and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from .errors import DataError
from .machine import Disturbance, Doubt, Machine
from .placement import Placed
from .sustain import Sustained, read_sustained

AVERAGES = "averages"  # the code of the doubt that the samples are averages


@dataclass(frozen=True)
class LanguageTiming:
    """What was seen at one context length; each figure once a round.

    `prefill` and `decode` are tokens per second, `first_token` is the seconds from `length` tokens to the next one,
    `bandwidth` is bytes per second, `read` the bytes that a token takes (None for mixtures of experts, which read what
    they choose), `peak_memory` the whole process's bytes so far.
    """

    length: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    first_token: tuple[float, ...]
    bandwidth: tuple[float, ...]
    read: int | None
    peak_memory: int | None

    @property
    def share(self) -> float | None:
        """Decode over what the bandwidth allows: the median of the rounds."""
        if self.read is None:
            return None
        return median(
            speed * self.read / bandwidth for speed, bandwidth in zip(self.decode, self.bandwidth, strict=True)
        )


@dataclass(frozen=True)
class Timing:
    """What the runs of one artifact took, every sample kept: `rounds` holds the blocks of each round, in ms.

    `run` is the id of the process that took it: only timings of one run may be compared. `load_ms` (hashes, the
    engine's library, the file), `first_run_ms`, `cold_start_ms` (from the start of the process to the first output)
    and `peak_memory` (bytes; Python, NumPy and the engine included) are None where several artifacts shared the
    process, or where the system does not tell. `threads=None` left the number to the engine. `shapes` are those of
    the inputs, `batch` the number of samples in a call. `language` is how fast a model alone in its process reads and
    writes text, a context length after the other; empty for others. `sustained` is what became of the latency in a
    run of minutes, where one was asked for. `placed` are the nodes and who ran them; empty where the engine does not
    tell, and in a report, whose rows hold the shares.
    """

    name: str
    run: str
    load_ms: float | None
    first_run_ms: float | None
    cold_start_ms: float | None
    rounds: tuple[tuple[float, ...], ...]
    peak_memory: int | None
    threads: int | None
    providers: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int
    machine: Machine
    disturbance: Disturbance
    doubts: tuple[Doubt, ...] = ()
    language: tuple[LanguageTiming, ...] = ()
    sustained: Sustained | None = None
    placed: tuple[Placed, ...] = ()

    @property
    def samples(self) -> tuple[float, ...]:
        """Every latency in ms, in the order it was taken."""
        return tuple(ms for block in self.rounds for ms in block)

    @property
    def averaged(self) -> bool:
        """True where each sample is an average over several runs: they have no percentiles."""
        return any(doubt.code == AVERAGES for doubt in self.doubts)

    @property
    def p50(self) -> float:
        """The median latency in ms."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """The latency in ms that 90 % of the runs stay below."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """The latency in ms that 99 % of the runs stay below; it needs at least 100 runs."""
        return self.percentile(99)

    @property
    def throughput(self) -> float:
        """Samples per second at the median latency, one call after the other."""
        return 1000 * self.batch / self.p50

    def percentile(self, q: float) -> float:
        """The `q`-th percentile of all samples in ms, linear between neighbours."""
        return float(np.percentile(self.samples, q))


def to_json(timings: Sequence[Timing]) -> str:
    """Timings as one line of JSON, with the names of the code."""
    return json.dumps([asdict(timing) for timing in timings], ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> tuple[Timing, ...]:
    """Read what `to_json` wrote. Raises DataError where it is something else."""
    try:
        raws = json.loads(text)
        if not isinstance(raws, list):
            raise TypeError(f"a {type(raws).__name__}, not a list")
        return tuple(read_timing(raw) for raw in raws)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"expected the JSON of edgepress.runtime.bench, got {text[:60]!r} ({error})") from error


def read_timing(raw: dict[str, Any]) -> Timing:
    """A Timing from the dictionary that `asdict` makes of it. Raises TypeError, KeyError where it is something else."""
    sustained = raw.get("sustained")
    return Timing(
        **raw
        | {
            "rounds": tuple(tuple(block) for block in raw["rounds"]),
            "providers": tuple(raw["providers"]),
            "shapes": {name: tuple(shape) for name, shape in raw["shapes"].items()},
            "machine": Machine(**raw["machine"]),
            "disturbance": Disturbance(**raw["disturbance"]),
            "doubts": tuple(Doubt(**doubt) for doubt in raw["doubts"]),
            "language": tuple(read_language(one) for one in raw.get("language", ())),
            "sustained": None if sustained is None else read_sustained(sustained),
            "placed": tuple(Placed(**node) for node in raw.get("placed", ())),
        }
    )


def read_language(raw: dict[str, Any]) -> LanguageTiming:
    """A LanguageTiming from the dictionary that `asdict` makes of it."""
    lists: dict[str, Any] = {name: tuple(raw[name]) for name in ("prefill", "decode", "first_token", "bandwidth")}
    return LanguageTiming(**(raw | lists))
