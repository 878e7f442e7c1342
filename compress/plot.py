"""plot: what each layer pays, as a picture: a row a layer, a colour and a mark an option."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import MissingExtra

if TYPE_CHECKING:
    from .explain import Explanation

# Okabe and Ito's colours, told apart by all; the marks tell them apart without colour.
_LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
_ROWS = 60  # layers that a page holds
_LEAST = 1e-7  # what float32 outputs still tell
_GREY = "#8a8a8a"


def plot(found: "Explanation", path: Path, kind: str) -> None:
    """Write the picture to `path` as `kind`, svg or png. Raises MissingExtra where matplotlib is not installed."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(cost.layer for cost in found.costs))[:_ROWS]  # the worst first
    timed = any(cost.before_ms is not None for cost in found.costs)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "edgepress",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.titlesize": 10,
    }
    with matplotlib.rc_context(settings):
        figure = Figure((10.5 if timed else 8, 1.9 + 0.21 * len(layers)), layout="constrained", facecolor="white")
        axes = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False, width_ratios=[3, 2] if timed else [1])[
            0
        ]
        _drops(axes[0], found, layers)
        if timed:
            _times(axes[1], found, layers)
        figure.suptitle(
            f"What each layer of {found.model} pays when it alone is changed", fontsize=12, x=0.02, ha="left"
        )
        figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})


def require_matplotlib() -> None:
    """Raise MissingExtra where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot")


def _drops(axes: Any, found: "Explanation", layers: Sequence[str]) -> None:
    for option, (colour, mark) in _looks(found).items():
        costs = [cost for cost in found.costs if cost.option == option and cost.layer in layers]
        y = [layers.index(cost.layer) for cost in costs]
        x = [max(cost.drop, _LEAST) for cost in costs]
        axes.plot(x, y, mark, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.6, label=option)
    axes.set_xscale("log")
    axes.set_xlabel(f"drop: 1 - mean cosine of {found.output} (log scale; further right is worse)")
    axes.set_yticks(range(len(layers)), _short(layers))
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(_LOOKS), frameon=False, borderaxespad=0.2)
    _tidy(axes)


def _times(axes: Any, found: "Explanation", layers: Sequence[str]) -> None:
    from matplotlib.ticker import LogLocator

    timed = [cost for cost in found.costs if cost.before_ms is not None and cost.layer in layers]
    for cost in timed:
        y = layers.index(cost.layer)
        axes.plot([cost.before_ms, cost.after_ms], [y, y], color="#cccccc", linewidth=1, zorder=1)
        axes.plot(cost.before_ms, y, "o", color="white", markeredgecolor=_GREY, markersize=6, zorder=2)
    for option, (colour, mark) in _looks(found).items():
        costs = [cost for cost in timed if cost.option == option]
        x, y = [cost.after_ms for cost in costs], [layers.index(cost.layer) for cost in costs]
        axes.plot(x, y, mark, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.6)
    axes.plot([], [], "o", color="white", markeredgecolor=_GREY, markersize=6, label="as it came")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel(f"ms, the layer run alone on {found.device} (log scale)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0.2)
    _tidy(axes)


def _looks(found: "Explanation") -> dict[str, tuple[str, str]]:
    """Each option's colour and mark; from the seventh on they come again."""
    options = sorted({cost.option for cost in found.costs})
    return {option: _LOOKS[index % len(_LOOKS)] for index, option in enumerate(options)}


def _short(layers: Sequence[str]) -> list[str]:
    """The names without the modules that all of them are in."""
    parts = [layer.split(".") for layer in layers]
    shared = 0
    while all(len(names) > shared + 1 and names[shared] == parts[0][shared] for names in parts):
        shared += 1
    return [".".join(names[shared:]) for names in parts]


def _tidy(axes: Any) -> None:
    axes.set_facecolor("white")
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
