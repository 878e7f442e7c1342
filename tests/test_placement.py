"""A placement: counts and shares by unit, and the way over a wire."""

import pytest

from edgepress.runtime.errors import DataError
from edgepress.runtime.placement import Placed, Placement, from_json, to_json

NODES = (
    Placed("conv", "Conv", "qnn", "npu", macs=900),
    Placed("relu", "Relu", "qnn", "npu"),
    Placed("fc", "Gemm", "cpu", "cpu", "Failed to add node", 90),
)
HALF = Placement(NODES, ("qnn", "cpu"), {"qnn": 3.0, "cpu": 1.0}, lost=10)


def test_a_share_is_that_of_the_multiply_accumulates_and_what_is_lost_is_on_no_unit():
    assert HALF.share("npu") == 0.9
    assert HALF.share("cpu") == 0.09
    assert HALF.share("gpu") == 0


def test_a_provider_may_stand_for_its_unit():
    assert HALF.share("qnn") == HALF.share("npu")
    assert HALF.unit("qnn") == "npu"
    assert HALF.unit("acl") == "acl"


def test_without_multiply_accumulates_the_nodes_count():
    assert Placement(NODES[1:2]).share("npu") == 1
    assert Placement(()).share("cpu") == 0


def test_nodes_and_work_are_counted_by_provider_in_the_order_asked_for():
    assert dict(HALF.counts()) == {"qnn": 2, "cpu": 1}
    assert dict(HALF.macs()) == {"qnn": 900, "cpu": 90}
    assert HALF.providers == ("qnn", "cpu")
    assert Placement(NODES, ("cpu",), {"cpu": 1.0}).providers == ("cpu", "qnn")


def test_what_a_device_prints_is_read_back():
    assert from_json(to_json(HALF)) == HALF


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": [{"nam": 1}], "asked": [], "ms": {}, "lost": 0}'])
def test_anything_else_is_no_placement(text: str):
    with pytest.raises(DataError, match="this is no placement"):
        from_json(text)
