"""The heat map has a square for each pair, a frame for each breach, and the same bytes each time."""

from pathlib import Path

from edgepress.compress.heat_map import heat_map

from .test_verified import PARITY


def test_the_svg_names_the_sides_and_tells_every_cosine_twice(tmp_path: Path) -> None:
    heat_map(PARITY, tmp_path / "a.svg", "svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for words in ("fp32", "int8", "onnx float32", "top1 0.9900", "mean cosine, worst in brackets"):
        assert words in text, words
    for pair in PARITY.pairs:
        assert text.count(f">{pair.cosine:.5f}<") >= 2
    heat_map(PARITY, tmp_path / "b.svg", "svg")
    assert (tmp_path / "b.svg").read_text(encoding="utf-8") == text


def test_only_what_parted_has_a_frame(tmp_path: Path) -> None:
    heat_map(PARITY, tmp_path / "a.svg", "svg")
    frames = (tmp_path / "a.svg").read_text(encoding="utf-8").lower().count("stroke: #d55e00")
    assert frames == 2 * sum(bool(pair.breaches) for pair in PARITY.pairs) > 0


def test_the_png_is_a_picture(tmp_path: Path) -> None:
    heat_map(PARITY, tmp_path / "a.png", "png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
