"""What the tests of the pages of reports share: opening them as people do, hostile texts, contrasts, collisions."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from .browser import Opened

HOSTILE = (
    "\"'><script>window.owned=1</script><img src=http://x.test/x onerror=owned()>"
    "<style>*{display:none}</style>$body&amp;"
)

# Contrast as WCAG 2 defines it, of each text with the background that lies behind it.
CONTRASTS = """() => {
  const rgb = css => css.match(/[\\d.]+/g).map(Number)
  const light = css => rgb(css).slice(0, 3).map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0)
  const behind = node => {
    if (node.matches('svg .inside')) return getComputedStyle(node.previousElementSibling).fill
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor
      if (rgb(color).length < 4 || rgb(color)[3] === 1) return color
    }
  }
  return [...document.querySelectorAll('body *')]
    .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
    .filter(node => node.tagName !== 'title' && node.getClientRects().length)
    .map(node => {
      const style = getComputedStyle(node)
      const [a, b] = [light(node instanceof SVGElement ? style.fill : style.color), light(behind(node))]
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), node.textContent]
    })
}"""
# Pairs of labels of one drawing that lie on each other.
COLLISIONS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
    .filter(([b, q]) => p.left + 1 < q.right && q.left + 1 < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
    .map(([b]) => `${a} on ${b}`))
})"""


@contextmanager
def opening(browser: Browser, path: Path, write: Callable[[Any], str]) -> Iterator[Callable[..., Opened]]:
    """`opened(report, dark=..., width=...)`: the page that `write` makes, opened from disk."""
    contexts = []

    def opened(report: Any, *, dark: bool = False, width: int = 1100) -> Opened:
        path.write_text(write(report), encoding="utf-8")
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}))
        return Opened(contexts[-1].new_page(), path)

    yield opened
    for context in contexts:
        context.close()


def check_looks(seen: Opened, *, dark: bool, width: int) -> None:
    """A page asks for nothing but itself, fits its window, is dark where that is wished for, and can be read."""
    assert seen.complaints == []
    assert len(seen.requests) == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
    contrasts = seen.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [(round(contrast, 2), text) for contrast, text in contrasts if contrast < 4.5] == []


def check_escapes(report: Any, write: Callable[[Any], str]) -> None:
    """Markup in any text of a report, however deep, adds no tag to the page."""
    hostile, harmless = (
        with_every_text(report, lambda text, more=more: text + more) for more in (HOSTILE, "Q" * len(HOSTILE))
    )
    assert Structure(write(hostile)).tags == Structure(write(harmless)).tags


class Structure(HTMLParser):
    """The tags of a page with their attributes' names, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))


def with_every_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each text in it changed, however deep."""
    if isinstance(value, str):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: with_every_text(getattr(value, f.name), change) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(with_every_text(item, change) for item in value)
    if isinstance(value, dict):
        return {change(key): with_every_text(item, change) for key, item in value.items()}
    return Path(change(str(value))) if isinstance(value, Path) else value


def check_runs_nothing(seen: Opened) -> None:
    """A page with `HOSTILE` in every text shows it, and neither runs it nor asks for anything."""
    assert seen.page.evaluate("window.owned") is None
    assert [url for url in seen.requests if not url.startswith("file:")] == []
    assert "<script>window.owned=1</script>" in seen.page.locator("h1").inner_text()
