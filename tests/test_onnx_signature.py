from typing import Any, Literal

import torch
from torch import Tensor

from edgepress.compress.onnx_signature import LITERAL, TENSOR, VALUE, signature


def pick(x: Tensor, sizes: list[int] | None = None, y: Any = 1, *, mode: Literal["a", "b"] = "a", axis: int) -> Tensor:
    return x


def many(*values: Any, axis: int = 0) -> Any:
    return values


def test_each_parameter_says_how_it_takes_constants() -> None:
    assert [signature(pick).kind(i) for i in range(3)] == [TENSOR, LITERAL, VALUE]
    assert signature(many).kind(7) == VALUE
    assert signature(pick).default(1) is None


def test_what_a_node_brings_is_held_against_its_function() -> None:
    wanted = signature(pick)
    assert wanted.problem(["x"], {"axis": 1, "mode": "b"}) == ""
    assert wanted.problem(["x"], {"axis": 1, "mode": "c"}) == "mode='c'"
    assert wanted.problem(["x"], {"axis": 1, "nodes": 1}) == "attribute nodes"
    assert wanted.problem(["x"], {}) == "no axis"
    assert wanted.problem(["", "s"], {"axis": 1}) == "no x"
    assert wanted.problem(["x", "s", "y", "z"], {"axis": 1}) == "4 inputs"


def test_an_input_may_come_as_the_attribute_that_it_was() -> None:
    assert signature(pick).problem(["x"], {"sizes": [1], "axis": 1}) == ""
    assert signature(many).problem([], {"values": [1]}) == "attribute values"


def test_a_repeated_input_takes_any_number() -> None:
    assert signature(many).problem(["a", "b", "c"], {"axis": 1}) == ""


def test_torchs_own_functions_take_one_tensor() -> None:
    wanted = signature(torch.erf)
    assert wanted.kind(0) == TENSOR
    assert wanted.problem(["x"], {}) == ""
    assert wanted.problem(["x"], {"axis": 1}) == "attribute axis"
