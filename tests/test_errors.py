"""The tree of what we raise on purpose is the one that its docstring shows."""

import doctest
import re

import pytest

from edgepress.runtime import errors
from edgepress.runtime.errors import EdgepressError, MissingExtra, UnknownName


def raised() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__ and not issubclass(value, Warning)
    }


def test_the_docstring_shows_every_class_under_its_parent():
    assert errors.__doc__
    shown, parents = {}, {-1: "Exception"}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"([│├└─ ]*)(\w+(?:Error|Name|Extra))\b", line):
            depth = len(match[1]) // 4
            shown[match[2]] = parents[depth - 1]
            parents[depth] = match[2]
    assert shown == {name: cls.__mro__[1].__name__ for name, cls in raised().items()}


def test_every_class_says_what_it_means_and_is_caught_by_the_root():
    for cls in raised().values():
        assert issubclass(cls, EdgepressError)
        assert cls.__doc__


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(errors).failed == 0
    assert doctest.testmod(errors).attempted >= 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnknownName("pass", "prun", {"prune": 1, "distill": 2}), "unknown pass 'prun'; known: distill, prune"),
        (UnknownName("pass", "a\nb", ()), "unknown pass 'a\\nb'; known: none"),
        (MissingExtra("torch", "compress"), "torch is not installed; it comes with: pip install 'edgepress[compress]'"),
        (MissingExtra("onnxruntime"), "onnxruntime is not installed; it comes with: pip install edgepress"),
    ],
)
def test_a_message_is_one_line_that_says_what_to_do(error: EdgepressError, message: str):
    assert str(error) == message


def test_a_step_down_is_a_warning_that_a_strict_program_can_turn_into_an_error():
    assert issubclass(errors.SteppedDown, UserWarning)
    assert errors.__doc__
    assert "SteppedDown" in errors.__doc__
