"""Streams of text: no half character, nothing from a stop string on, and the same text whatever the pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.stream import characters, until

cuts = st.lists(st.integers(0, 40), max_size=8)


def cut(whole, places):
    edges = [0, *sorted(min(place, len(whole)) for place in places), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(max_size=30), cuts)
def test_pieces_of_utf_8_become_the_same_text(text: str, places: list[int]):
    found = list(characters(cut(text.encode("utf-8", "ignore"), places)))
    assert "".join(found) == text.encode("utf-8", "ignore").decode()
    assert all(found)


def test_a_character_comes_when_its_last_byte_has_come():
    snowman = "☃".encode()
    assert list(characters([b"a" + snowman[:1], snowman[1:2], snowman[2:] + b"b"])) == ["a", "☃b"]


def test_what_is_no_utf_8_becomes_a_replacement():
    assert "".join(characters([b"a\xff", b"b", b"\xe2\x98"])) == "a�b�"


@given(st.text("ab", max_size=30), cuts, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text: str, places: list[int], stops: list[str]):
    expected = text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]
    found = list(until(cut(text, places), stops))
    assert "".join(found) == expected
    assert all(found)


def test_what_cannot_become_a_stop_string_comes_at_once():
    taken = []
    stream = until((taken.append(text) or text for text in ["one ", "two #", "# three"]), ["##"])
    assert next(stream) == "one "
    assert taken == ["one "]
    assert list(stream) == ["two "]
    assert taken == ["one ", "two #", "# three"]


@pytest.mark.parametrize("pieces", [[], [""], ["", "a", ""]])
def test_empty_pieces_are_left_out(pieces: list[str]):
    assert list(until(pieces, ["x"])) == [piece for piece in pieces if piece]
