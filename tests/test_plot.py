"""The picture has a row a layer and a mark an option, in both formats, and the same bytes each time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.compress import plot as plotting
from edgepress.compress.plot import plot
from edgepress.runtime.errors import MissingExtra

from .test_explained import COSTS, FOUND


def drawn(found, path: Path) -> str:
    plot(found, path, path.suffix[1:])
    return path.read_text(encoding="utf-8")


def test_the_svg_names_layers_options_and_axes_as_text(tmp_path: Path) -> None:
    text = drawn(FOUND, tmp_path / "a.svg")
    names = "body.0.fc", "a|b", "int4", "int8", "as it came"
    for words in (*names, "What each layer of net pays", "1 - mean cosine of logits", "run alone on host"):
        assert words in text, words
    assert drawn(FOUND, tmp_path / "b.svg") == text


def test_the_png_is_a_picture_that_grows_with_the_layers(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 20):
        costs = tuple(replace(COSTS[0], layer=f"l{i}") for i in range(count))
        plot(replace(FOUND, costs=costs), tmp_path / "a.png", "png")
        content = (tmp_path / "a.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(content[20:24]))
    assert sizes[1] > 2 * sizes[0]


def test_names_lose_what_all_share_and_untimed_layers_have_no_second_half(tmp_path: Path) -> None:
    costs = tuple(replace(COSTS[0], layer=f"net.body.{i}.fc", before_ms=None, after_ms=None) for i in range(3))
    text = drawn(replace(FOUND, costs=costs), tmp_path / "a.svg")
    assert ">0.fc<" in text
    assert "net.body" not in text
    assert "run alone" not in text


def test_matplotlib_is_imported_when_something_is_drawn_and_opens_no_window(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.test_explained import FOUND
from edgepress.compress.plot import plot
before = "matplotlib" in sys.modules
plot(FOUND, Path(sys.argv[1]), "svg")
print(before, "matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.svg")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert run.stdout.split() == ["False", "False"], run.stderr


def test_a_missing_matplotlib_is_told_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        MissingExtra, match=r"matplotlib is not installed; it comes with: pip install 'edgepress\[plot\]'"
    ):
        plotting.require_matplotlib()
