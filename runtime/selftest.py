"""Self-test where a file will run: `python -m edgepress.runtime.selftest DIR …` replays golden samples, prints JSON.

    [{"cases": 2, "difference": 1.2e-07, "tolerance": 1e-05}, null]

An artifact without golden samples gives null. One thread: sums in another order differ a little on each machine.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from .artifact import GOLDEN
from .errors import DataError
from .golden import SelfTest
from .program import answer
from .session import load


def selftests(paths: Sequence[str]) -> tuple[SelfTest | None, ...]:
    """Replay the golden samples of each artifact. Raises what `load` raises.

    >>> selftests(["out/digits-int8"])
    (SelfTest(cases=2, difference=1.2e-07, tolerance=1e-05),)
    """
    models = (load(path, threads=1) for path in paths)
    return tuple(model.selftest() if model.artifact.asset(GOLDEN) else None for model in models)


def from_json(text: str) -> tuple[SelfTest | None, ...]:
    """Read what the program printed. Raises DataError where it is something else."""
    try:
        return tuple(raw and SelfTest(**raw | {"difference": float(raw["difference"])}) for raw in json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"expected the JSON of edgepress.runtime.selftest, got {text[:60]!r} ({error})") from error


def main(paths: Sequence[str] | None = None) -> int:
    """Replay and print. Returns the exit code: 0, or 2 with one line on stderr."""
    return answer(lambda: _to_json(selftests(sys.argv[1:] if paths is None else paths)))


def _to_json(found: Sequence[SelfTest | None]) -> str:
    """NaN and infinity, which JSON does not have, as strings that `float` reads."""
    return json.dumps([one and asdict(one) | {"difference": str(one.difference)} for one in found])


if __name__ == "__main__":
    sys.exit(main())
