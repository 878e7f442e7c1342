import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.devices.charts import WIDTH, Point, Scale, Series, bars, change, curves, distributions, scatter
from edgepress.devices.words import show_ms

SIZE = Scale("size", lambda x: f"{x:.0f} B")
SCORE = Scale("top1", lambda x: f"{x:.3f}", less=False)


def read(svg: str) -> ET.Element:
    """The drawing, with nothing outside of it to the left or the right."""
    root = ET.fromstring(svg)
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -1 <= float(element.get(name, 0)) <= WIDTH + 1, ET.tostring(element)
    return root


def looks(root: ET.Element, look: str) -> list[ET.Element]:
    return [element for element in root.iter() if element.get("class") == look]


def point(name: str, x: float, y: float, look: str = "kept") -> Point:
    return Point(name, x, y, look, f"{name} told")


def test_the_front_of_a_scatter_is_full_and_joined_and_the_rest_is_hollow():
    points = [point("a", 100, 0.9), point("b", 200, 0.95), point("c", 300, 0.94)]
    root = read(scatter(points, SIZE, SCORE))
    assert len(looks(root, "dot")) == 2
    assert len(looks(root, "dot hollow")) == 1
    (front,) = looks(root, "front")
    assert len((front.get("points") or "").split()) == 3, "a step: two points and the corner between"
    assert {title.text for title in root.iter("title")} == {"a told", "b told", "c told"}
    assert {"size", "top1", "a", "b", "c"} <= {label.text for label in root.iter("text")}


def test_a_higher_score_is_higher_up_and_a_larger_file_further_right():
    root = read(scatter([point("a", 100, 0.9), point("b", 200, 0.95)], SIZE, SCORE))
    a, b = looks(root, "dot")
    assert float(a.get("cx", 0)) < float(b.get("cx", 0))
    assert float(a.get("cy", 0)) > float(b.get("cy", 0))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_names_of_points_in_one_place_do_not_lie_on_each_other(count):
    root = read(scatter([point(f"model-{i}", 100 + i, 0.9) for i in range(count)], SIZE, SCORE))
    heights = sorted(float(label.get("y", 0)) for label in looks(root, "label"))
    assert all(b - a >= 13.9 for a, b in itertools.pairwise(heights))


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(0, 1)), min_size=2, max_size=6))
def test_any_points_make_a_drawing(found):
    read(scatter([point(f"m{i}", x, y) for i, (x, y) in enumerate(found)], SIZE, SCORE))


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = "sentence-transformers-all-minilm-l6-v2-with-a-long-name-int8"
    root = read(scatter([point(name, 100, 0.9), point("b", 101, 0.9)], SIZE, SCORE))
    label = looks(root, "label")[0].text or ""
    head, tail = label.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)


def series(name: str, ms) -> Series:
    return Series(name, "kept", tuple((float(i), float(y)) for i, y in enumerate(ms)))


def test_a_distribution_has_its_quartiles_its_median_and_its_figures():
    ms = np.linspace(1, 2, 101)
    root = read(distributions([series("a", ms), series("b", 2 * ms)]))
    assert len(looks(root, "box")) == len(looks(root, "median")) == len(looks(root, "density")) == 2
    titles = [title.text for title in root.iter("title")]
    assert titles[0] == "a: median 1.5 ms, quartiles 1.25 ms to 1.75 ms, p99 1.99 ms, 101 runs"
    box, median = looks(root, "box")[0], looks(root, "median")[0]
    left, width, middle = (float(x or 0) for x in (box.get("x"), box.get("width"), median.get("x1")))
    assert left + width / 2 == pytest.approx(middle, abs=0.2)


def test_outliers_do_not_make_the_picture_and_are_counted():
    ms = [1.0, 1.1, 1.2, 1.3] * 25 + [500.0] * 3
    root = read(distributions([series("a", ms)]))
    assert "1.2 ms · 3 beyond" in [label.text for label in root.iter("text")]
    ticks = [label.text or "" for label in looks(root, "tick")]
    assert not [tick for tick in ticks if re.fullmatch(r"\d{2,} ms", tick)]


def test_latencies_that_are_all_the_same_are_drawn_too():
    read(distributions([series("a", [1.0] * 20)]))


def test_a_curve_ends_at_its_name_and_two_names_never_touch():
    drawn = curves([series("a", [1, 2, 3]), series("b", [1, 2, 3.01])], "round", str, "latency", show_ms)
    root = read(drawn)
    assert [len((line.get("points") or "").split()) for line in looks(root, "curve")] == [3, 3]
    a, b = (float(label.get("y", 0)) for label in looks(root, "label"))
    assert abs(a - b) >= 13.9
    assert next(root.iter("title")).text == "a: 1 ms at first, 3 ms at last"


@pytest.mark.parametrize(
    ("ratio", "look"),
    [((0.5, 0.4, 0.6), "bar good"), ((2, 1.9, 2.1), "bar bad"), ((1, 1, 1), "bar same"), ((0.9, 0.8, 1.1), "bar same"),
     ((0.01, 0.01, 0.01), "bar good"), ((90, 80, 95), "bar bad")],
)  # fmt: skip
def test_a_change_is_coloured_only_where_its_quartiles_are_on_one_side(ratio, look):
    root = read(change(*ratio))
    assert len(looks(root, look)) == 1
    assert len(looks(root, "spread")) == (ratio[1] < ratio[2])


def test_a_change_within_what_is_the_same_has_no_colour():
    assert len(looks(read(change(1.08, 1.08, 1.08, 0.10)), "bar same")) == 1
    assert len(looks(read(change(1.08, 1.08, 1.08)), "bar bad")) == 1


def test_the_parts_of_a_bar_fill_it_and_name_themselves_where_there_is_room():
    root = read(bars([("a", {"npu": 0.97, "cpu": 0.03}), ("b", {"cpu": 1.0})]))
    boxes = list(root.iter("rect"))
    assert sum(float(box.get("width", 0)) for box in boxes[:2]) == pytest.approx(WIDTH, abs=0.2)
    assert [label.text for label in looks(root, "inside")] == ["npu 97.0%", "cpu 100.0%"]
    assert [label.text for label in looks(root, "tick")] == ["cpu 3.0%"]  # above its bar
    assert [title.text for title in root.iter("title")] == ["a: npu 97.0%", "a: cpu 3.0%", "b: cpu 100.0%"]
    assert boxes[1].get("class") == boxes[2].get("class") == "part part-1", "a unit has one colour in all bars"


def test_few_figures_have_no_99th_percentile():
    root = read(distributions([series("a", np.linspace(1, 2, 99))]))
    (title,) = root.iter("title")
    assert title.text == "a: median 1.5 ms, quartiles 1.25 ms to 1.75 ms, 99 runs"
