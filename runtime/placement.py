"""Placement: which node of a file runs on which unit, as the engine tells it, and what share of the work that is.

share(u) = Σ_{n on u} w_n / Σ_n w_n         w: 1 a node, its multiply-accumulates, or its time
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import DataError


@dataclass(frozen=True)
class Placed:
    """One node: its name and operator, the provider that took it and the unit behind that (npu, gpu, xnnpack, cpu).

    `reason` is the engine's own, why a unit that was asked for did not take it; "" where it says nothing. `macs` are
    its multiply-accumulates for the inputs of one call, None where nobody counted them.
    """

    name: str
    op: str
    provider: str
    unit: str
    reason: str = ""
    macs: int | None = None


@dataclass(frozen=True)
class Placement:
    """All nodes of a file as the engine runs it, after its first fusions, and `ms`: milliseconds of a call by provider.

    `asked` are the providers that were asked for, in order. `ms` is empty where nothing was timed or the engine does
    not tell; `lost` are multiply-accumulates of the file's nodes that the engine runs under no name we know.
    """

    nodes: tuple[Placed, ...]
    asked: tuple[str, ...] = ("cpu",)
    ms: Mapping[str, float] = field(default_factory=dict)
    lost: int = 0

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that have nodes, those that were asked for first."""
        found = {node.provider for node in self.nodes} | set(self.ms)
        return tuple(sorted(found, key=lambda name: (name not in self.asked, [*self.asked, name].index(name))))

    def unit(self, provider: str) -> str:
        """The unit behind a provider that has nodes; its own name for any other."""
        return next((node.unit for node in self.nodes if node.provider == provider), provider)

    def counts(self) -> Mapping[str, int]:
        """How many nodes each provider has."""
        return Counter(node.provider for node in self.nodes)

    def macs(self) -> Mapping[str, int]:
        """Multiply-accumulates by provider; those that nobody counted are none."""
        found: Counter[str] = Counter()
        for node in self.nodes:
            found[node.provider] += node.macs or 0
        return found

    def share(self, unit: str) -> float:
        """The share of the multiply-accumulates on a unit or a provider, 0 to 1; what is lost is on none.

        Of a file without any, the share of its nodes.

        >>> load("out/digits-int8").placement.share("cpu")
        1.0
        """
        there = [node for node in self.nodes if unit in (node.unit, node.provider)]
        total = sum(self.macs().values()) + self.lost
        if total:
            return sum(node.macs or 0 for node in there) / total
        return len(there) / len(self.nodes) if self.nodes else 0.0


def to_json(placement: Placement) -> str:
    """One line of JSON: what a device prints."""
    return json.dumps(asdict(placement))


def from_json(text: str) -> Placement:
    """Read what `to_json` wrote. Raises DataError for anything else."""
    try:
        raw: Mapping[str, Any] = json.loads(text)
        nodes: Sequence[Mapping[str, Any]] = raw["nodes"]
        return Placement(
            nodes=tuple(Placed(**node) for node in nodes),
            asked=tuple(map(str, raw["asked"])),
            ms={str(name): float(value) for name, value in raw["ms"].items()},
            lost=int(raw["lost"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"this is no placement ({error!r}); is edgepress on the device the same version?") from error
