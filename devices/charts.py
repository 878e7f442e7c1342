"""Charts: what a report's figures look like, each a drawing of its own: scatter, distributions, curves, bars, change.

All are as wide as half a page or a phone, so that no letter is ever scaled down to nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .pareto import front
from .svg import Axis, axis, circle, drawing, group, line, path, rect, spread, text, x_axis, y_axis
from .words import show_ms, show_share, show_times

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 22, 40
PARTS = 4  # colours of the parts of a bar; a fifth begins again
FAR = 3  # where the axis of latencies ends, in largest medians
LETTER = 6.6  # pixels that a letter of a label takes, about

Words = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """A model in a scatter: its name, where it lies, its look (a CSS class), and what is told of it."""

    name: str
    x: float
    y: float
    look: str
    told: str


@dataclass(frozen=True)
class Series:
    """Samples of a model, or a curve of it: (x, y) in the order taken."""

    name: str
    look: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scale:
    """An axis of a scatter: its title, its ticks in words, and whether less is better."""

    title: str
    words: Words
    less: bool = True


@dataclass(frozen=True)
class Picture:
    """A drawing and what is said below it."""

    svg: str
    words: str = ""


def scatter(points: Sequence[Point], across: Scale, up: Scale) -> str:
    """Points with their names; those that no other one beats are joined by the Pareto front."""
    height = 260
    x = axis((p.x for p in points), LEFT, WIDTH - RIGHT, positive=across.less)
    y = axis((p.y for p in points), height - BOTTOM, TOP, positive=up.less)
    best = front([(_cost(p.x, across), _cost(p.y, up)) for p in points])
    marks = [x_axis(x, height - BOTTOM, TOP, across.words), y_axis(y, LEFT, WIDTH - RIGHT, up.words)]
    marks += [text(WIDTH - RIGHT, height - 5, across.title, "name", "end"), text(2, 12, up.title, "name")]
    marks.append(_front([p for p, on in zip(points, best, strict=True) if on], x, y, across.less))
    labels = spread([y.at(p.y) + 4 for p in points], 14, TOP + 4, height - BOTTOM - 2)
    places = [(x.at(p.x), y.at(p.y)) for p in points]
    for p, on, place, below in zip(points, best, places, labels, strict=True):
        marks.append(_point(p, place, _clear(place, places), below, front=on))
    return drawing(WIDTH, height, f"{up.title} over {across.title}, with the Pareto front", marks)


def distributions(series: Sequence[Series]) -> str:
    """Where each model's latencies lie: density, quartiles, median and 99th percentile; samples are the ys, in ms.

    The axis ends at the largest 99th percentile, or at `FAR` times the largest median, or the picture were one of
    outliers; how many lie beyond is told.
    """
    each = 54
    height = each * len(series) + BOTTOM
    samples = [np.asarray([y for _, y in one.points]) for one in series]
    far = FAR * max(float(np.median(ms)) for ms in samples)
    x = axis([min(float(q), far) for ms in samples for q in np.percentile(ms, (0, 50, 99))], 8, WIDTH - RIGHT)
    marks = [x_axis(x, height - BOTTOM, 2, show_ms), text(WIDTH - RIGHT, height - 5, "latency", "name", "end")]
    for index, (one, ms) in enumerate(zip(series, samples, strict=True)):
        marks.append(_distribution(one, ms, x, each * index))
    return drawing(WIDTH, height, "the distribution of each model's latencies", marks)


def curves(series: Sequence[Series], across: str, x_words: Words, up: str, y_words: Words) -> str:
    """A line for each model, its name at the end."""
    height = 260
    names = max(len(one.name) for one in series)
    right = WIDTH - min(RIGHT + LETTER * names, 0.4 * WIDTH)
    x = axis([a for one in series for a, _ in one.points], LEFT, right, positive=False)
    x = Axis(min(a for one in series for a, _ in one.points), x.high, LEFT, right)
    y = axis([b for one in series for _, b in one.points], height - BOTTOM, TOP)
    marks = [x_axis(x, height - BOTTOM, TOP, x_words), y_axis(y, LEFT, right, y_words)]
    marks += [text(right, height - 5, across, "name", "end"), text(2, 12, up, "name")]
    ends = spread([y.at(one.points[-1][1]) + 4 for one in series], 14, TOP + 4, height - BOTTOM)
    for one, end in zip(series, ends, strict=True):
        last = one.points[-1]
        told = f"{one.name}: {y_words(one.points[0][1])} at first, {y_words(last[1])} at last"
        line_ = path([(x.at(a), y.at(b)) for a, b in one.points], "curve")
        name = text(x.at(last[0]) + 6, end, _short(one.name, (WIDTH - x.at(last[0])) - 6), "label")
        marks.append(group([line_, name], one.look, told))
    return drawing(WIDTH, height, f"{up} over {across}", marks)


def bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A bar for each model, of shares that add up to 1, each with its name in it, or above where it has no room."""
    each, names = 44, list(dict.fromkeys(name for _, shares in rows for name in shares))
    marks = []
    for index, (model, shares) in enumerate(rows):
        top, left, narrow = each * index, 0.0, list[str]()
        for name, share in shares.items():
            width = share * WIDTH
            words = f"{name} {show_share(share)}"
            part = [rect(left, top + 20, width, 18, f"part part-{names.index(name) % PARTS}")]
            if LETTER * len(words) + 10 < width:
                part.append(text(left + 6, top + 33, words, "inside"))
            else:
                narrow.append(words)
            marks.append(group(part, title=f"{model}: {words}"))
            left += width
        above = ", ".join(narrow)
        marks.append(text(0, top + 13, _short(model, WIDTH - LETTER * (len(above) + 2)), "label"))
        marks += [text(WIDTH, top + 13, above, "tick", "end")] if above else []
    return drawing(WIDTH, each * len(rows), "the shares of each model's work by unit", marks)


def change(ratio: float, low: float, high: float, same: float = 0.005) -> str:
    """How many times as much: a bar from 1 to the ratio on a log axis from 1/8 to 8; a hairline spans the quartiles.

    It is green or red where both quartiles are on one side of 1, and the ratio is further from it than `same`.
    """
    width, height = 132, 16
    x = Axis(1 / 8, 8, 1, width - 1, log=True)
    look = "bar same" if low <= 1 <= high or abs(ratio - 1) < same else "bar good" if ratio < 1 else "bar bad"
    left, right = sorted((x.at(1), x.at(ratio)))
    marks = [rect(left, 3, right - left, height - 6, look)]
    if low < high:
        marks.append(line(x.at(low), height / 2, x.at(high), height / 2, "spread"))
    marks.append(line(x.at(1), 0, x.at(1), height, "one"))
    return drawing(width, height, show_times(ratio), marks)


def _cost(value: float, scale: Scale) -> float:
    return value if scale.less else -value


def _front(points: Sequence[Point], x: Axis, y: Axis, less: bool) -> str:
    """Steps through the points of the front: what lies behind them is beaten."""
    corners: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: p.x, reverse=not less):
        here = (x.at(p.x), y.at(p.y))
        corners += [(here[0], corners[-1][1]), here] if corners else [here]
    return path(corners, "front") if len(corners) > 1 else ""


def _clear(place: tuple[float, float], places: Sequence[tuple[float, float]]) -> float:
    """The pixel beyond the marks that touch this one on its right, where its name may begin."""
    x, y = place
    return max(a for a, b in places if x <= a < x + 16 and abs(b - y) < 8)


def _point(p: Point, place: tuple[float, float], clear: float, below: float, *, front: bool) -> str:
    """The mark, full where it is on the front and hollow else, and its name on the side that has room."""
    x, y = place
    leftwards = clear + 10 + LETTER * len(p.name) > WIDTH - 4 and x - LEFT > WIDTH - x
    start, room = (x - 10, x - LEFT - 10) if leftwards else (clear + 10, WIDTH - clear - 10)
    marks = [circle(x, y, 5, "dot" if front else "dot hollow")]
    if abs(below - 4 - y) > 5:
        marks.append(line(x + (start - x) / 2, y, start, below - 4, "leader"))
    marks.append(text(start, below, _short(p.name, room), "label", "end" if leftwards else "start"))
    return group(marks, p.look, p.told)


def _distribution(one: Series, ms: np.ndarray, x: Axis, top: float) -> str:
    """The name and the median above; a density with the box of the quartiles below."""
    least, low, middle, high, late = (float(q) for q in np.percentile(ms, (0, 25, 50, 75, 99)))
    beyond = int((ms > x.high).sum())
    floor = top + 43
    shown = np.linspace(x.at(least), x.at(late), 72)
    heights = _density(np.asarray([x.at(float(v)) for v in ms if v <= x.high]), shown)
    outline = [(float(a), floor - 20 * float(h)) for a, h in zip(shown, heights, strict=True)]
    told = f"{one.name}: median {show_ms(middle)}, quartiles {show_ms(low)} to {show_ms(high)}"
    told += f", p99 {show_ms(late)}" if ms.size >= 100 else ""
    figures = show_ms(middle) + (f" · {beyond} beyond" if beyond else "")
    marks = [
        text(8, top + 13, _short(one.name, WIDTH - 40 - LETTER * len(figures)), "label"),
        text(WIDTH - RIGHT, top + 13, figures, "tick", "end"),
        path([(shown[0], floor), *outline, (shown[-1], floor)], "density", closed=True),
        line(x.at(least), floor, x.at(late), floor, "whisker"),
        rect(x.at(low), floor - 3, x.at(high) - x.at(low), 6, "box"),
        line(x.at(middle), floor - 20, x.at(middle), floor + 4, "median"),
    ]
    return group(marks, one.look, f"{told}, {len(ms)} runs")


def _density(pixels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A Gaussian kernel density in pixels, its largest value 1; the width is Silverman's, 2 pixels at least."""
    low, high = np.percentile(pixels, (25, 75))
    width = max(2.0, 0.9 * min(float(pixels.std()), float(high - low) / 1.34) * len(pixels) ** -0.2)
    places, counts = np.unique(pixels.round(), return_counts=True)  # many thousand samples share some hundred pixels
    heights = (counts * np.exp(-0.5 * ((at[:, None] - places[None, :]) / width) ** 2)).sum(axis=1)
    return heights / heights.max()


def _short(name: str, room: float) -> str:
    """The name, its middle left out where there is no room for all of it."""
    letters = max(6, math.floor(room / LETTER))
    if len(name) <= letters:
        return name
    tail = (letters - 1) // 2
    return f"{name[: letters - 1 - tail]}…{name[-tail:]}"
