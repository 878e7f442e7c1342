"""What is cut together can be printed before the cut, and shares become numbers of units."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgepress.compress.groups import (
    Group,
    count_kept,
    inputs_left,
    outputs_left,
    ratio_of,
    read_ratios,
    refuse_ratio,
    refuse_unmatched,
    summary,
    table,
)
from edgepress.runtime.errors import UsageError

INNER = Group("ffn.in", "neurons", 4, (0, 3), {"ffn.in": torch.arange(4)}, {"ffn.out": torch.arange(4)})
HEADS = Group("attention", "heads", 2, (1,), {"query": torch.arange(6) // 3}, {"out": torch.arange(6) // 3})
WHOLE = Group("last", "channels", 8, tuple(range(8)), {}, {}, "they are the model's output y")


def test_the_table_has_a_line_a_group_and_says_what_goes_with_it_or_why_it_stays():
    assert table([INNER, HEADS, WHOLE]) == (
        "ffn.in     neurons   4 -> 2  with ffn.out\n"
        "attention  heads     2 -> 1  with query, out\n"
        "last       channels  8 -> 8  they are the model's output y"
    )
    assert table([]) == ""


def test_the_summary_adds_up_by_kind_and_leaves_out_what_stays():
    assert summary([INNER, INNER, HEADS, WHOLE]) == "neurons 8 -> 4 in 2 groups, heads 2 -> 1"


def test_a_layer_keeps_the_rows_and_columns_of_the_units_that_stay_and_of_no_unit():
    partly = Group("c", "channels", 2, (1,), {}, {"out": torch.tensor([-1, 0, 0, 1, 1, -1])})
    assert inputs_left("out", [partly]).tolist() == [0, 3, 4, 5]
    assert inputs_left("out", [partly, HEADS]).tolist() == [3, 4, 5]
    assert outputs_left("query", [HEADS]).tolist() == [3, 4, 5]
    assert outputs_left("out", [HEADS]) is None


@given(size=st.integers(1, 5000), ratio=st.floats(0, 1, exclude_max=True), multiple=st.integers(1, 64))
def test_what_stays_is_at_least_the_share_and_the_next_multiple(size: int, ratio: float, multiple: int):
    kept = count_kept(size, ratio, multiple)
    assert 1 <= kept <= size
    assert kept == size or kept % multiple == 0
    assert kept >= (1 - ratio) * size - 1e-5
    assert kept < (1 - ratio) * size + multiple + 1


def test_shares_that_are_whole_numbers_of_units_are_met():
    assert [count_kept(10, ratio) for ratio in (0, 0.1, 0.3, 0.6, 0.7, 0.9, 0.99)] == [10, 9, 7, 4, 3, 1, 1]
    assert count_kept(1536, 0.5, 8) == 768


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1, float("nan")])
def test_a_ratio_that_cannot_be_cut_is_refused(ratio: float):
    with pytest.raises(
        UsageError, match=r"structured: heads = .*; expected the share to cut, from 0 .* to less than 1"
    ):
        refuse_ratio("structured", "heads", ratio)


def test_ratios_are_read_and_the_first_pattern_that_fits_counts():
    ratios = read_ratios("structured", ["*.layer.0.*=0.25", "*=0.5"])
    assert ratios == {"*.layer.0.*": 0.25, "*": 0.5}
    assert ratio_of("encoder.layer.0.ffn", ratios, 0.1) == 0.25
    assert ratio_of("encoder.layer.1.ffn", ratios, 0.1) == 0.5
    assert ratio_of("anything", {}, 0.1) == 0.1


@pytest.mark.parametrize("text", ["0.5", "=0.5", "layer", "layer=half", "layer=1.0", "layer=-1"])
def test_what_is_no_pattern_with_a_ratio_is_refused(text: str):
    with pytest.raises(UsageError, match="expected"):
        read_ratios("structured", [text])


def test_a_pattern_that_fits_no_group_is_refused():
    with pytest.raises(
        UsageError, match=r"the pattern 'fnn\.\*' in ratios fits no group; names look like ffn.in, ffn.out"
    ):
        refuse_unmatched("structured", {"fnn.*": 0.5}, ["ffn.in", "ffn.out"])
    with pytest.raises(UsageError, match="has nothing that can be cut"):
        refuse_unmatched("structured", {"fnn.*": 0.5}, [])
