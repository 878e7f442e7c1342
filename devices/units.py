"""Units: the share of a model's work that each unit does: npu, gpu, xnnpack, cpu.

share(u) = Σ_{n on u} macs_n / Σ_n macs_n

The session that was timed tells its nodes, at no cost; they are weighed only where they are on several units.
"""

from collections.abc import Callable, Mapping, Sequence

from ..runtime.artifact import Artifact
from ..runtime.errors import EdgepressError
from ..runtime.litert_plan import XNNPACK
from ..runtime.machine import Doubt
from ..runtime.placement import Placed
from ..runtime.providers import unit_of
from .words import show_share

UNKNOWN = "no known unit"

# shares(artifact, its nodes) -> the share of the multiply-accumulates on each unit; {} for a file without any.
Shares = Callable[[Artifact, Sequence[Placed]], Mapping[str, float]]


def shares_of(
    artifact: Artifact, placed: Sequence[Placed], shares: Shares | None
) -> tuple[Mapping[str, float] | None, tuple[Doubt, ...]]:
    """The share of the work on each unit, the largest first; None where nobody tells. A doubt where counting fails.

    One unit alone does all of it, whatever that is; of several `shares` is asked.

    >>> shares_of(artifact, (Placed("fc", "Gemm", "cpu", "cpu"),), None)
    ({'cpu': 1.0}, ())
    """
    units = dict.fromkeys(node.unit for node in placed)
    if len(units) < 2:
        return dict.fromkeys(units, 1.0) or None, ()
    if shares is None:
        return None, ()
    try:
        found = shares(artifact, placed)
    except EdgepressError as error:
        seen = " and ".join(units)
        return None, (Doubt("not-placed", f"runs on {seen}, in shares that are not known: {error}"),)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))) or None, ()


def show_elsewhere(placement: Mapping[str, float] | None, form: str, asked: Sequence[str]) -> str:
    """The shares in words, where some work is not on the unit that was asked for first; "" where all is there.

    `asked` are a device's units. LiteRT is asked for the CPU and means XNNPACK; what that does not take is elsewhere.

    >>> show_elsewhere({"npu": 0.62, "cpu": 0.38}, "onnx", ["qnn", "cpu"])
    '62.0% of the multiply-accumulates on npu, 38.0% on cpu'
    """
    first = XNNPACK if form == "tflite" else unit_of(asked[0], asked) if asked else ""
    if not placement or placement.get(first, 0.0) == 1:
        return ""
    unit, *others = whole(placement)
    words = [f"{show_share(unit[1])} of the multiply-accumulates on {unit[0]}"]
    return ", ".join([*words, *(f"{show_share(share)} on {name}" for name, share in others)])


def whole(placement: Mapping[str, float]) -> list[tuple[str, float]]:
    """The units that do any of the work, and what is on no known one, so that the shares add up to 1."""
    found = [(unit, share) for unit, share in placement.items() if share > 0]
    rest = 1 - sum(placement.values())
    return [*found, *([(UNKNOWN, rest)] if rest > 5e-5 else [])]
