import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.devices.svg import Axis, axis, circle, drawing, group, line, path, rect, spread, text, x_axis, y_axis

values = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=8)
signed = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(values, st.booleans())
def test_an_axis_holds_its_values_within_its_pixels_and_in_their_order(found, backwards):
    ends = (300, 20) if backwards else (20, 300)
    made = axis(found, *ends)
    pixels = [made.at(value) for value in sorted(found)]
    assert all(20 <= pixel <= 300 for pixel in pixels)
    assert pixels == sorted(pixels, reverse=backwards)


@given(signed)
def test_an_axis_of_scores_may_go_below_zero(found):
    made = axis(found, 0, 100, positive=False)
    assert made.low < min(found) <= max(found) < made.high
    assert not made.log


def test_an_axis_is_logarithmic_where_its_values_lie_far_apart():
    assert axis([1, 200], 0, 400).log
    assert not axis([100, 200], 0, 400).log
    assert not axis([0, 200], 0, 400).log
    assert axis([1, 100], 0, 100).at(10) == pytest.approx(50)


def test_beyond_the_axis_is_its_end():
    made = Axis(1, 2, 0, 100)
    assert (made.at(0), made.at(3)) == (0, 100)


@given(values)
def test_ticks_are_round_on_the_axis_and_not_too_many(found):
    made = axis(found, 0, 340)
    ticks = made.ticks(72)
    assert all(made.low * 0.999999 <= tick <= made.high * 1.000001 for tick in ticks)
    assert len(ticks) <= 6
    for tick in ticks:
        assert float(f"{tick:.3g}") == pytest.approx(tick, rel=1e-9), "expected a number of few digits"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 100, (0, 50, 100)), (90, 350, (100, 200, 300)), (0.97, 0.995, (0.97, 0.98, 0.99))],
)
def test_linear_ticks_are_one_two_or_five(low, high, ticks):
    assert Axis(low, high, 0, 300).ticks(75) == pytest.approx(ticks)


def test_logarithmic_ticks_thin_out_over_many_powers():
    assert Axis(0.9, 110, 0, 600, log=True).ticks(72) == pytest.approx((1, 2, 5, 10, 20, 50, 100))
    assert Axis(0.9, 110, 0, 300, log=True).ticks(72) == pytest.approx((1, 3, 10, 30, 100))
    assert Axis(1, 1e12, 0, 300, log=True).ticks(72) == pytest.approx((1, 1e3, 1e6, 1e9, 1e12))


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_are_spread_so_that_none_lies_on_another(wanted):
    places = spread(wanted, 14, 0, 200)
    ordered = sorted(places)
    assert all(b - a >= 14 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert not places or max(places) <= 200
    if all(abs(a - b) >= 14 for i, a in enumerate(wanted) for b in wanted[:i]):
        assert places == wanted


@given(st.text(max_size=20))
def test_any_text_stays_a_text(words):
    printable = "".join(c for c in words if c.isprintable())
    root = ET.fromstring(drawing(10, 10, printable, [group([text(0, 0, printable)], "base", printable)]))
    assert root.get("aria-label") == printable
    assert root[0].findtext("text") == printable
    assert (root[0].findtext("title") or "") == printable


def test_a_drawing_is_well_formed_and_says_what_it_shows():
    across, up = Axis(0, 100, 20, 300), Axis(0, 1, 200, 10)
    corners = [(0, 0), (1, 1), (1, 0)]
    marks = [x_axis(across, 200, 10, str), y_axis(up, 20, 300, str), line(0, 0, 1, 1, "grid"), rect(0, 0, 0, 5, "bar"),
             circle(1, 1, 5, "dot"), path(corners, "curve"), path(corners, "density", closed=True)]  # fmt: skip
    root = ET.fromstring(drawing(320, 240, "size & score", marks))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "size & score"
    assert [child.tag for child in root] == ["g", "g", "line", "rect", "circle", "polyline", "polygon"]
    assert root[3].get("width") == "1.0", "a bar of no width is still seen"
