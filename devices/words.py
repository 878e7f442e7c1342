"""Words: figures as people read them, three digits each, and as JSON holds them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def show_bytes(count: int) -> str:
    """Bytes for people, decimal units, three digits: `320 kB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.9995 * size:
            return f"{_three(count / size)} {unit}"
    return f"{count} B"


def show_ms(ms: float) -> str:
    """Milliseconds for people, three digits: `2.3 ms`, `85.1 us`, `4.02 s`."""
    if ms >= 999.5:
        return f"{_three(ms / 1000)} s"
    return f"{_three(ms)} ms" if ms >= 0.09995 else f"{_three(1000 * ms)} us"


def show_threads(count: int | None) -> str:
    """The threads that a model ran with: `1 thread`, `2 threads`; None left the number to the engine."""
    return {None: "the engine's threads", 1: "1 thread"}.get(count, f"{count} threads")


def show_points(change: float) -> str:
    """A change of a score in points, signed: `-0.19`."""
    return f"{100 * change + 0.0:+.2f}"


def show_share(share: float) -> str:
    """A share in percent; what is not quite nothing or all does not look like it.

    >>> show_share(0.99995)
    '>99.9%'
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["local", "kitchen", "pi5"])
    'local, kitchen and pi5'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def show_times(ratio: float) -> str:
    """A ratio: `0.31x`, `1.83x`, `12.4x`, `0.0004x`."""
    if 0.095 <= ratio < 9.995:
        return f"{ratio:.2f}x"
    return f"{ratio:.0f}x" if ratio >= 99.95 else f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.1g}x"


def plain(value: Any) -> Any:
    """What JSON can hold: paths and non-finite floats as strings, which `Path` and `float` read back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _three(number: float) -> str:
    """Three digits, without zeros at the end: 2.3, 85.1, 320."""
    digits = max(0, 2 - math.floor(math.log10(number) + 2e-4)) if number > 0 else 0
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def markdown_line(cells: Sequence[str]) -> str:
    """A row of a markdown table.

    >>> markdown_line(["a|b", "1"])
    '| a\\\\|b | 1 |'
    """
    return f"| {' | '.join(map(in_markdown, cells))} |"


def in_markdown(text: str) -> str:
    """A text that markdown shows as it is, in one line and in one cell."""
    return text.replace("|", "\\|").replace("\n", " ")
