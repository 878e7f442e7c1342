"""heat map: the parity of all files as a picture, a square a pair; darker is further apart, a frame is a breach."""

from pathlib import Path
from typing import Any

import numpy as np

from ..export.parity import Pair, Parity
from .plot import require_matplotlib

# Distances 1 - cosine, from what float32 still tells to what nobody ships.
_LEAST, _MOST = 1e-7, 1.0
_RED = "#D55E00"


def heat_map(parity: Parity, path: Path, kind: str) -> None:
    """Write the picture to `path` as `kind`, svg or png. Raises MissingExtra where matplotlib is not installed."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    names = [side.name for side in parity.sides]
    pairs = {(names.index(pair.a), names.index(pair.b)): pair for pair in parity.pairs}
    settings: dict[Any, Any] = {"svg.hashsalt": "edgepress", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure((2.8 + 1.15 * len(names), 1.6 + 0.8 * len(names)), layout="constrained", facecolor="white")
        axes = figure.subplots()
        _squares(axes, pairs, len(names))
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
        labels = [f"{side.name}\n{side.format} {side.precision}{_score(side.score)}" for side in parity.sides]
        axes.set_yticks(range(len(names)), labels)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        figure.suptitle("How near the files are: mean cosine, worst in brackets", fontsize=11, x=0.02, ha="left")
        figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})


def _squares(axes: Any, pairs: dict[tuple[int, int], Pair], count: int) -> None:
    """One square a pair, above and below the diagonal alike."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    distances = np.full((count, count), np.nan)
    for (row, column), pair in pairs.items():
        distances[row, column] = distances[column, row] = np.clip(1 - pair.cosine, _LEAST, _MOST)
    axes.imshow(distances, cmap="Blues", norm=LogNorm(_LEAST, _MOST), aspect="auto")
    for (row, column), pair in pairs.items():
        dark = 1 - pair.cosine > 1e-3
        for x, y in ((column, row), (row, column)):
            words = f"{pair.cosine:.5f}\n({pair.worst_cosine:.4f})"
            axes.text(x, y, words, ha="center", va="center", color="white" if dark else "#1a1a1a")
            if pair.breaches:
                frame = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, edgecolor=_RED, linewidth=2.5)
                axes.add_patch(frame)


def _score(score: Any) -> str:
    first = next(iter(score.items()), None)
    return "" if first is None else f"\n{first[0]} {first[1]:.4f}"
