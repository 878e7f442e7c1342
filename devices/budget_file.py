"""Budget file: the limits of `budget.toml`, for all models and for some by name."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..runtime.errors import UnknownName, UsageError
from .budget import Budget, misses_of_all, parse_budget
from .measure import Row

_LIMITS = tuple(limit.name for limit in fields(Budget))
_EXAMPLE = 'expected a text with its unit, like size = "1MB", latency = "2ms" or drop = "1%"'


@dataclass(frozen=True)
class Limits:
    """The budget of every model, and those of models by name, whose limits hold in its place."""

    every: Budget
    models: Mapping[str, Budget] = field(default_factory=dict)

    def of(self, name: str) -> Budget:
        """The budget of a model: its own limits, and those of every model where it has none."""
        own = self.models.get(name, Budget())
        return replace(self.every, **{key: value for key, value in vars(own).items() if value is not None})

    def refuse_others(self, names: Iterable[str]) -> None:
        """Raise UnknownName where a limit is for a model that is none of these: it would hold for nothing."""
        known = list(names)
        for name in self.models:
            if name not in known:
                raise UnknownName("model in the budget", name, known)


def read_limits(text: str) -> Limits:
    """Limits as `parse_budget` reads them, or from a TOML file where the text ends with `.toml`. Raises UsageError.

    >>> read_limits("budget.toml").of("digits-int8")
    Budget(size=105000, latency=None, memory=None, drop=0.005)
    """
    if not text.strip().endswith(".toml"):
        return Limits(parse_budget(text))
    path = Path(text.strip())
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a TOML file or give the limits") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML ({error}); {_EXAMPLE}") from error
    models = raw.pop("models", {})
    if not isinstance(models, dict):
        raise UsageError(f"{path}: models is no table; expected [models.NAME] with limits below it")
    return Limits(_budget(str(path), raw), {name: _budget(f"{path}, {name}", table) for name, table in models.items()})


def misses_of_groups(groups: Sequence[tuple[str, Sequence[Row]]], limits: Limits) -> tuple[str, ...]:
    """What is missed by the last group of rows, and by each that `limits` names.

    A group is a model in its formats, with its name; the first row of the first one is the baseline.

    >>> misses_of_groups([("fp32", [base]), ("int8", [row])], read_limits("latency<2ms"))
    ('latency 2.3 ms, budget < 2 ms',)
    """
    baseline = groups[0][1][0]
    found: list[str] = []
    for index, (name, rows) in enumerate(groups, 1):
        if index == len(groups) or name in limits.models:
            told = f"{name}: " if limits.models else ""
            found += [f"{told}{miss}" for miss in misses_of_all(rows, baseline, limits.of(name))]
    return tuple(found)


def words(limits: Limits, last: str) -> str:
    """The limits in a line: those of `last`, which is always held to them, and of the others that are named."""
    parts = [str(limits.of(last))]
    parts += [f"{name}: {limits.of(name)}" for name in limits.models if name != last]
    return "; ".join(part for part in parts if part)


def _budget(where: str, table: Any) -> Budget:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is {table!r}; expected a table of limits")
    for key, value in table.items():
        if key not in _LIMITS:
            raise UnknownName(f"limit in {where}", key, _LIMITS)
        if not isinstance(value, str) or "," in value:
            raise UsageError(f"{where}: {key} is {value!r}; {_EXAMPLE}")
    try:
        return parse_budget(", ".join(f"{key}<{value}" for key, value in table.items()))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
