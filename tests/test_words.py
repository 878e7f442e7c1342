import pytest

from edgepress.devices.words import listed, show_bytes, show_ms, show_points, show_share, show_times


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (320_400, "320 kB"), (999_499, "999 kB"), (999_999, "1 MB"),
     (1_234_567, "1.23 MB"), (22_700_000, "22.7 MB"), (2_500_000_000, "2.5 GB")],
)  # fmt: skip
def test_bytes_have_three_digits_and_decimal_units(count, words):
    assert show_bytes(count) == words


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0.0079, "7.9 us"), (0.0999, "99.9 us"), (0.1, "0.1 ms"), (0.148, "0.148 ms"), (2.3, "2.3 ms"), (85.14, "85.1 ms"),
     (412.4, "412 ms"), (999.4, "999 ms"), (999.9, "1 s"), (4024.0, "4.02 s")],
)  # fmt: skip
def test_times_have_three_digits_and_the_fitting_unit(ms, words):
    assert show_ms(ms) == words


@pytest.mark.parametrize(("change", "words"), [(-0.0019, "-0.19"), (0.0, "+0.00"), (-0.0, "+0.00"), (0.0926, "+9.26")])
def test_points_are_signed(change, words):
    assert show_points(change) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.31, "0.31x"), (1.0, "1.00x"), (1.834, "1.83x"), (12.44, "12.4x"), (120.2, "120x"), (0.00017, "0.0002x")],
)
def test_ratios_have_the_digits_that_matter(ratio, words):
    assert show_times(ratio) == words


def test_a_share_that_is_not_quite_all_or_nothing_does_not_look_like_it():
    assert [show_share(x) for x in (0, 0.0004, 0.5, 0.9996, 1)] == ["0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%"]


def test_names_are_listed_as_in_a_sentence():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
