"""explain: which layer pays how much, for which change, in accuracy, bytes and milliseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..devices.device import Device
from ..devices.words import show_bytes
from ..export.formats import export
from ..export.model import Model
from ..runtime.errors import UnsupportedError, UsageError
from ..runtime.session import load
from .data import Data
from .layer_times import LayerTimes, layer_inputs
from .options import find_option
from .sensitivity import Cost, sensitivities

# A largest drop below this is called next to nothing: a mean cosine above 0.9999.
SMALL = 1e-4
# Layers that a sentence names.
_NAMED = 3


@dataclass(frozen=True)
class Explanation:
    """What was found, the layers that pay most first.

    `output` is what was compared, `device` where the layers were timed. `score` is the first score of the model as it
    came, from its exported file; empty where there is none.
    """

    model: str
    device: str
    output: str
    score: Mapping[str, float]
    costs: tuple[Cost, ...]


def explain(
    model: Model, data: Data, options: Sequence[str], on: Device, *, layers: Sequence[str] = ("*",), scored: int = 3
) -> Explanation:
    """Change each layer alone, by each option, and see what that costs and saves; score the `scored` worst as files.

    Raises what `find_option` and `sensitivities` raise, and UsageError for an option that is named twice.

    >>> explain(task.model, task.data, ["int8"], find_device("host")).costs[0].layer
    'stacks.1.first.0'
    """
    if len(set(options)) < len(options):
        raise UsageError(f"the options are {', '.join(options)}; expected each once")
    made = [find_option(text, on) for text in options]
    found: dict[Cost, str] = {}
    worst: list[tuple[Cost, Model]] = []
    with TemporaryDirectory(prefix="edgepress-explain-") as folder:
        names = [name for name, part in model.module.named_modules() if list(part.parameters(recurse=False))]
        timed = LayerTimes(model, layer_inputs(model, names), Path(folder))
        for cost, variant in sensitivities(model, data, made, layers):
            found[cost] = timed.add(variant, cost.option) if on.link else ""
            worst = sorted([*worst, (cost, variant.model)], key=lambda pair: -pair[0].drop)[:scored]
        if not found:
            raise UnsupportedError(f"{', '.join(options)}: no layer of {model.name} would change; name other options")
        figures = _scores(model, worst, data, Path(folder)) if worst and data.score is not None else {}
        ms = timed.times(on, data.tell)
    before = figures.pop(None, ("", 0.0))
    costs = []
    for cost, key in found.items():
        took = ms.get((key, cost.option), (None, None))
        score = figures[cost][1] if cost in figures else None
        costs.append(replace(cost, before_ms=took[0], after_ms=took[1], score=score))
    costs.sort(key=lambda cost: -cost.drop)
    return Explanation(model.name, on.name, model.outputs[0], dict([before] if before[0] else []), tuple(costs))


def _scores(
    model: Model, worst: Sequence[tuple[Cost, Model]], data: Data, folder: Path
) -> dict[Cost | None, tuple[str, float]]:
    """The first score, by name, of the model as it came (None) and of the changed ones, from their files."""
    assert data.score is not None
    found: dict[Cost | None, tuple[str, float]] = {}
    for index, (cost, changed) in enumerate([(None, model), *worst]):
        data.tell(f"scoring {'the model as it is' if cost is None else f'{cost.layer} at {cost.option}'}")
        session = load(export(changed, "onnx", folder / f"scored-{index}").path, threads=1)
        found[cost] = next(iter(data.score(session).items()))
    return found


def summary(found: Explanation) -> list[str]:
    """A sentence an option, the worst first: where accuracy is lost, and what leaving these layers out would give up.

    >>> summary(found)
    ['int4 loses most in fc (91 % of the summed drops): leave it as it is, which gives up 12 kB of the 310 kB saved.']
    """
    options = dict.fromkeys(cost.option for cost in found.costs)
    return [_sentence(option, [cost for cost in found.costs if cost.option == option]) for option in options]


def _sentence(option: str, costs: Sequence[Cost]) -> str:
    worst = costs[0]
    if worst.drop < SMALL:
        return f"{option} costs next to nothing in any layer; most in {worst.layer}, a drop of {worst.drop:.6f}."
    total = sum(max(cost.drop, 0.0) for cost in costs)
    named = list(costs[:_NAMED])
    while len(named) > 1 and sum(cost.drop for cost in named[:-1]) >= total / 2:
        named.pop()
    share = sum(cost.drop for cost in named) / total
    saved = f"{show_bytes(sum(cost.saved for cost in named))} of the {show_bytes(sum(cost.saved for cost in costs))}"
    them, they = ("it", "it is") if len(named) == 1 else ("these", "they are")
    where = f"{option} loses most in {_and([cost.layer for cost in named])} ({share:.0%} of the summed drops)"
    return f"{where}: leave {them} as {they}, which gives up {saved} saved."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
