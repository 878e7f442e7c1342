"""SVG: the few marks that charts are made of, as text, and axes with round ticks.

Looks are CSS classes, which the page that holds the drawing explains; every text is escaped.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

ACROSS, UP = 64, 36  # pixels, about, between ticks with labels
LOG_FROM = 8  # an axis is logarithmic where its largest value is so many times the smallest


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on the pixels from `start` to `end`, which may run backwards."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; beyond the axis its nearer end."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, self._within(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, every: float) -> tuple[float, ...]:
        """Round values on the axis, 1, 2 or 5 times a power of ten, at least about `every` pixels apart."""
        room = max(2, int(abs(self.end - self.start) // every))
        return _log_ticks(self.low, self.high, room) if self.log else _linear_ticks(self.low, self.high, room)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def axis(values: Iterable[float], start: float, end: float, *, positive: bool = True) -> Axis:
    """An axis that holds finite values, with a little room at both ends; logarithmic where they lie far apart.

    `positive` values are ratios at heart (bytes, times): equal ones get room by share, never below 0.

    >>> axis([100, 200], 0, 400).log, axis([1, 200], 0, 400).log
    (False, True)
    """
    found = list(values)
    low, high = min(found), max(found)
    if positive and low > 0 and high / low > LOG_FROM:
        room = (high / low) ** 0.08
        return Axis(low / room, high * room, start, end, log=True)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(max(low - room, 0.0) if positive else low - room, high + room, start, end)


def text(x: float, y: float, words: str, look: str = "", anchor: str = "start") -> str:
    """Words whose baseline is at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{_class(look)} text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_class(look)}/>'


def rect(x: float, y: float, width: float, height: float, look: str) -> str:
    """A box with its upper left corner at (x, y); one of no width is a hairline."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"{_class(look)}/>'


def circle(x: float, y: float, radius: float, look: str) -> str:
    """A disc."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"{_class(look)}/>'


def path(points: Sequence[tuple[float, float]], look: str, *, closed: bool = False) -> str:
    """A line through points, or the area that it closes."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<{"polygon" if closed else "polyline"} points="{steps}"{_class(look)}/>'


def group(marks: Iterable[str], look: str = "", title: str = "") -> str:
    """Marks that belong together; `title` is told where a pointer rests on them."""
    told = f"<title>{escape(title)}</title>" if title else ""
    return f"<g{_class(look)}>{told}{''.join(marks)}</g>"


def drawing(width: float, height: float, label: str, marks: Iterable[str]) -> str:
    """A whole drawing, as wide as its place allows; `label` says what it shows to those who do not see it."""
    name = escape(label, quote=True)
    box = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {box} role="img" aria-label="{name}">{"".join(marks)}</svg>'


def x_axis(across: Axis, y: float, top: float, words: Callable[[float], str]) -> str:
    """Grid lines from `top` to `y` and the labels below, of which those at the ends stay within the drawing."""
    marks = []
    for tick in across.ticks(ACROSS):
        x = across.at(tick)
        marks += [line(x, top, x, y, "grid"), text(x, y + 16, words(tick), "tick", "middle")]
    return group(marks)


def y_axis(up: Axis, left: float, right: float, words: Callable[[float], str]) -> str:
    """Grid lines from `left` to `right`, with the labels left of them."""
    marks = []
    for tick in up.ticks(UP):
        y = up.at(tick)
        marks += [line(left, y, right, y, "grid"), text(left - 6, y + 4, words(tick), "tick", "end")]
    return group(marks)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones as they can be with `gap` between each two, from `low` to `high`.

    >>> spread([10, 11, 40], 12, 0, 100)
    [10, 22, 40]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    last = low - gap
    for i in order:
        last = places[i] = max(places[i], last + gap)
    last = high + gap
    for i in reversed(order):
        last = places[i] = min(places[i], last - gap)
    return places


def _linear_ticks(low: float, high: float, room: int) -> tuple[float, ...]:
    rough = (high - low) / room
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return tuple(i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))


def _log_ticks(low: float, high: float, room: int) -> tuple[float, ...]:
    """All of 1-2-5, or 1-3, or the powers alone, then every second, third … power: the first that has room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [(factors, 1) for factors in ((1, 2, 5), (1, 3), (1,))] + [((1,), every) for every in range(2, 20)]
    for factors, every in choices:
        found = [m * 10.0**p for p in powers if p % every == 0 for m in factors]
        ticks = tuple(x for x in found if low <= x <= high)
        if len(ticks) <= room + 1:
            return ticks
    return ()


def _class(look: str) -> str:
    return f' class="{look}"' if look else ""
