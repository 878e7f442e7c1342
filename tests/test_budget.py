import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.devices.budget import Budget, Verdict, judge, misses, misses_of_all, parse_budget
from edgepress.runtime.errors import UnknownName, UsageError

bytes_ = st.integers(1, 10**15)
budgets = st.builds(
    Budget,
    size=st.none() | bytes_,
    latency=st.none() | st.floats(1e-6, 1e9),
    memory=st.none() | bytes_,
    drop=st.none() | st.integers(0, 10_000).map(lambda n: n / 10_000),
)


@given(budgets)
def test_a_budget_reads_back_what_it_writes(budget):
    assert parse_budget(str(budget)) == budget


def test_a_budget_is_written_in_the_units_that_people_would_take():
    text = "size<105kB, latency<1.5ms, memory<1GB, drop<0.5%"
    assert str(parse_budget(text)) == text
    assert str(parse_budget("size<=0.5MB, latency<2000ms, memory<1MiB")) == "size<500kB, latency<2s, memory<1.048576MB"


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("size<15MB, latency<20ms, memory<100MB, drop<1%", Budget(15_000_000, 20.0, 100_000_000, 0.01)),
        ("size<=1.5kB", Budget(size=1500)),
        ("size < 2 GB", Budget(size=2_000_000_000)),
        ("size<700B", Budget(size=700)),
        ("memory<1KiB", Budget(memory=1024)),
        ("memory<3MiB,size<1GiB", Budget(size=2**30, memory=3 * 2**20)),
        ("latency<250us", Budget(latency=0.25)),
        ("latency<1.5s", Budget(latency=1500.0)),
        ("drop<0%", Budget(drop=0.0)),
        ("drop<0.5 %", Budget(drop=0.005)),
        ("", Budget()),
        ("  ", Budget()),
    ],
)
def test_limits_have_the_units_of_their_kind(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size<15", "the budget for size is in 'no unit'; expected one of: B, kB, MB, GB, KiB, MiB, GiB"),
        ("size<15ms", "the budget for size is in 'ms'; expected one of: B, kB"),
        ("latency<15MB", "the budget for latency is in 'MB'; expected one of: us, ms, s"),
        ("drop<0.01", "the budget for drop is in 'no unit'; expected one of: %"),
        ("size>15MB", "the budget says 'size>15MB'; expected limits like 'size<15MB, latency<20ms, drop<1%'"),
        ("size<15MB,", "the budget says ''; expected limits like"),
        ("size<-1MB", "expected limits like"),
        ("15MB", "expected limits like"),
        ("size<0MB", "expected a limit above 0"),
        ("size<0.5B", "expected a limit above 0"),
        ("latency<0ms", "expected a limit above 0"),
        ("size<1MB, size<2MB", "the budget names size twice"),
    ],
)
def test_what_cannot_be_a_budget_is_refused_with_what_would_be_right(text, message):
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert message in str(caught.value)


def test_an_unknown_limit_lists_the_known_ones():
    with pytest.raises(UnknownName, match="unknown budget 'speed'; known: drop, latency, memory, size"):
        parse_budget("speed<2ms")


@given(st.text(alphabet="sizeldrop<=0123456789.,MBk% ", max_size=30))
def test_any_text_is_read_or_refused_on_purpose(text):
    try:
        budget = parse_budget(text)
    except UsageError:
        return
    assert parse_budget(str(budget)) == budget


def test_what_is_missed_is_said_with_figures(make_row):
    base = make_row("base", 4_000_000, score={"top1": 0.99})
    row = make_row("int8", 1_200_000, ms=2.3, memory=70_000_000, score={"top1": 0.97})
    budget = parse_budget("size<1MB, latency<2ms, memory<64MB, drop<1%")
    assert misses(row, base, budget) == (
        "size 1.2 MB, budget < 1 MB",
        "latency 2.3 ms, budget < 2 ms",
        "peak memory 70 MB, budget < 64 MB",
        "drop of top1 2.00 points, budget < 1 %",
    )


def test_a_limit_is_met_when_it_is_reached(make_row):
    base = make_row("base", 2_000_000, score={"top1": 0.99})
    row = make_row("int8", 1_000_000, ms=2.0, memory=64_000_000, score={"top1": 0.98})
    assert misses(row, base, parse_budget("size<1MB, latency<2ms, memory<64MB, drop<1%")) == ()


def test_what_was_not_asked_is_not_missed(make_row):
    row = make_row("huge", 10**12, ms=10_000.0, score={"top1": math.nan})
    assert misses(row, row, Budget()) == ()


def test_a_latency_that_could_not_be_measured_is_a_miss(make_row):
    row = make_row("int8", 1000, ms=None)
    assert misses(row, row, parse_budget("latency<2ms, memory<1MB")) == (
        "latency not measured on host, budget < 2 ms",
        "peak memory not measured on host, budget < 1 MB",
    )


def test_a_drop_that_could_not_be_judged_is_a_miss(make_row):
    row = make_row("int8", 1000)
    assert misses(row, row, parse_budget("drop<1%")) == ("drop not judged: there is no score, budget < 1 %",)


def test_nan_meets_no_drop(make_row):
    good, bad = make_row("a", 1000, score={"top1": 0.9}), make_row("b", 1000, score={"top1": math.nan})
    assert misses(bad, good, parse_budget("drop<100%")) == ("top1 is NaN, budget < 100 %",)
    assert misses(good, bad, parse_budget("drop<100%")) == ("top1 is NaN, budget < 100 %",)


def test_a_step_that_is_smaller_and_faster_is_kept_with_its_figures(make_row):
    base = make_row("fp32", 1_000_000, ms=1.9, score={"top1": 0.9926})
    step = make_row("int8", 260_000, ms=1.0, memory=57_000_000, score={"top1": 0.9907})
    why = "0.26x the bytes, 1.90x as fast, 0.95x the peak memory; top1 -0.19 points"
    assert judge(step, base, base, parse_budget("drop<1%")) == Verdict(True, why)


def test_a_step_that_is_smaller_and_slower_is_undone(make_row):
    base = make_row("fp32", 1_000_000, ms=1.0, score={"top1": 0.99})
    step = make_row("int4", 200_000, ms=1.31, score={"top1": 0.99})
    verdict = judge(step, base, base, Budget())
    assert not verdict.kept
    assert verdict.why == (
        "0.20x the bytes, 1.31x slower (1.31 ms, was 1 ms), 1.00x the peak memory; top1 +0.00 points; "
        "undone: worse latency"
    )


def test_slower_is_fine_where_the_budget_names_latency_and_is_met(make_row):
    base, step = make_row("fp32", 1_000_000, ms=1.0), make_row("int4", 200_000, ms=1.31)
    assert judge(step, base, base, parse_budget("latency<2ms")).kept
    assert not judge(step, base, base, parse_budget("latency<1.2ms")).kept
    assert not judge(step, base, base, parse_budget("size<1MB")).kept


def test_slower_is_fine_for_the_step_that_reaches_the_size_which_the_budget_names(make_row):
    base, before = make_row("fp32", 1000), make_row("int8", 900)
    slower = make_row("int4", 400, ms=1.5)
    assert judge(slower, before, base, parse_budget("size<500B")).kept
    assert "slower" in judge(slower, before, base, parse_budget("size<500B")).why
    assert not judge(slower, before, base, parse_budget("size<300B")).kept
    assert not judge(slower, before, base, parse_budget("size<950B")).kept  # it was met before
    assert not judge(slower, before, base, parse_budget("size<500B, latency<1.2ms")).kept


def test_bigger_is_fine_only_where_the_budget_names_size_and_is_met(make_row):
    base, step = make_row("fp32", 1_000_000, ms=2.0), make_row("unrolled", 1_500_000, ms=1.0)
    assert judge(step, base, base, Budget()).why.endswith("undone: worse size")
    assert judge(step, base, base, parse_budget("size<2MB")).kept
    assert not judge(step, base, base, parse_budget("size<1.4MB")).kept


def test_a_step_that_changes_nothing_is_undone(make_row):
    base = make_row("fp32", 1_000_000, score={"top1": 0.99})
    step = make_row("same", 999_000, ms=0.99, memory=59_900_000, score={"top1": 0.99})
    assert judge(step, base, base, Budget()).why.endswith("undone: nothing is better beyond noise")


def test_less_memory_alone_pays(make_row):
    base, step = make_row("fp32", 1_000_000), make_row("lean", 1_000_000, memory=40_000_000)
    assert judge(step, base, base, Budget()).kept
    jump = make_row("jump", 1_000_000, memory=55_500_000)  # what the same file shows from process to process
    assert not judge(jump, base, base, Budget()).kept


def test_a_smaller_download_alone_pays_and_is_told_as_what_it_is(make_row):
    base = make_row("fp32", 1_000_000, compressed=900_000, score={"top1": 0.99})
    step = make_row("pruned", 1_000_000, compressed=450_000, score={"top1": 0.99})
    assert judge(step, base, base, Budget()) == Verdict(
        True,
        "1.00x the bytes, 1.00x as fast, 1.00x the peak memory, 0.50x compressed; top1 +0.00 points; "
        "smaller as a download only, latency unchanged",
    )
    hardly = make_row("pruned", 1_000_000, compressed=895_000, score={"top1": 0.99})
    assert not judge(hardly, base, base, Budget()).kept


def test_a_smaller_download_excuses_nothing_that_is_worse(make_row):
    base = make_row("fp32", 1_000_000, ms=1.0, compressed=900_000)
    slower = make_row("slower", 1_000_000, ms=1.3, compressed=450_000)
    assert judge(slower, base, base, Budget()).why.endswith("undone: worse latency")
    assert not judge(slower, base, base, parse_budget("latency<2ms")).kept
    hungry = make_row("hungry", 1_000_000, memory=90_000_000, compressed=450_000)
    assert judge(hungry, base, base, Budget()).why.endswith("undone: only the download is better")


def test_a_larger_download_is_no_reason_against_a_step_that_pays(make_row):
    base, step = make_row("fp32", 1_000_000, compressed=300_000), make_row("int8", 500_000, compressed=400_000)
    assert judge(step, base, base, Budget()).kept


def test_a_median_that_is_faster_within_a_wide_spread_is_noise(make_row):
    base = make_row("fp32", 1_000_000, ms=1.0)
    step = make_row("noisy", 1_000_000, ms=[0.8, 0.8, 0.95, 1.1] * 5)
    assert not judge(step, base, base, Budget()).kept
    slower = make_row("noisy", 500_000, ms=[0.9, 1.0, 1.05, 1.3] * 5)
    assert judge(slower, base, base, Budget()).kept


def test_the_score_is_held_against_the_baseline_and_not_the_predecessor(make_row):
    base = make_row("fp32", 1_000_000, score={"top1": 0.990})
    before = make_row("pruned", 500_000, ms=0.8, score={"top1": 0.984})
    step = make_row("int8", 250_000, ms=0.5, score={"top1": 0.978})
    assert judge(step, before, before, parse_budget("drop<1%")).kept
    verdict = judge(step, before, base, parse_budget("drop<1%"))
    assert not verdict.kept
    assert verdict.why.endswith("top1 -1.20 points; undone: drop of top1 1.20 points, budget < 1 %")


def test_without_a_drop_in_the_budget_one_point_is_the_limit_and_it_says_so(make_row):
    base = make_row("fp32", 1_000_000, score={"top1": 0.99})
    assert judge(make_row("a", 500_000, score={"top1": 0.98}), base, base, Budget()).kept
    verdict = judge(make_row("b", 500_000, score={"top1": 0.97}), base, base, Budget())
    assert verdict.why.endswith("undone: drop of top1 2.00 points, budget < 1 % (the default)")


def test_only_the_first_score_counts(make_row):
    base = make_row("fp32", 1_000_000, score={"top1": 0.99, "worst": 0.9})
    assert judge(make_row("a", 500_000, score={"top1": 0.99, "worst": 0.1}), base, base, Budget()).kept


@pytest.mark.parametrize("score", [math.nan, -math.inf])
def test_a_score_that_is_no_number_never_passes(make_row, score):
    base = make_row("fp32", 1_000_000, score={"top1": 0.99})
    step = make_row("broken", 100_000, ms=0.1, score={"top1": score})
    for budget in (Budget(), parse_budget("drop<100%")):
        assert not judge(step, base, base, budget).kept


def test_a_drop_that_is_asked_needs_a_score(make_row):
    base, step = make_row("fp32", 1_000_000), make_row("int8", 500_000)
    assert judge(step, base, base, Budget()).why == "0.50x the bytes, 1.00x as fast, 1.00x the peak memory; no score"
    assert not judge(step, base, base, parse_budget("drop<1%")).kept


def test_where_nothing_can_be_timed_size_decides_and_it_says_so(make_row):
    base, step = make_row("fp32", 1_000_000, ms=None), make_row("int8", 500_000, ms=None)
    assert judge(step, base, base, Budget()) == Verdict(True, "0.50x the bytes, latency not measured on host; no score")


def test_steps_of_different_runs_are_not_judged(make_row):
    base, step = make_row("fp32", 1_000_000), make_row("int8", 500_000, run="2")
    with pytest.raises(UsageError, match="different runs"):
        judge(step, base, base, Budget())


def test_different_scores_are_not_compared(make_row):
    base, step = make_row("a", 1000, score={"top1": 0.9}), make_row("b", 500, score={"cosine": 0.9})
    with pytest.raises(UsageError, match="b has no score 'top1', a has"):
        judge(step, base, base, Budget())


def test_a_training_that_raises_the_score_alone_pays(make_row):
    base = make_row("fp32", 1_000_000, score={"top1": 0.9926})
    cut, taught = make_row("cut", 300_000, score={"top1": 0.985}), make_row("taught", 300_000, score={"top1": 0.991})
    assert judge(taught, cut, base, Budget()).kept
    hardly = make_row("hardly", 300_000, score={"top1": 0.9854})
    assert judge(hardly, cut, base, Budget()).why.endswith("undone: nothing is better beyond noise")


def test_only_a_step_that_fails_by_its_score_alone_can_be_healed(make_row):
    base = make_row("fp32", 1_000_000, ms=2.0, score={"top1": 0.99})
    cut = judge(make_row("cut", 300_000, ms=1.0, score={"top1": 0.95}), base, base, Budget())
    assert not cut.kept
    assert cut.healable
    assert cut.healed("distill").endswith(
        "top1 -4.00 points; brought back by distill: drop of top1 4.00 points, budget < 1 % (the default)"
    )
    assert not judge(make_row("slow", 300_000, ms=3.0, score={"top1": 0.95}), base, base, Budget()).healable
    assert not judge(make_row("same", 1_000_000, ms=2.0, score={"top1": 0.95}), base, base, Budget()).healable
    assert not judge(make_row("good", 300_000, ms=1.0, score={"top1": 0.99}), base, base, Budget()).healable


def test_of_one_model_in_several_formats_each_is_held_against_the_budget(make_row):
    base, onnx = make_row("base", 300, ms=1.0), make_row("net/onnx", 100, ms=2.0)
    tflite = replace(make_row("net/tflite", 120, ms=0.5), format="tflite")
    limits = parse_budget("latency<1ms, size<110B")
    assert misses_of_all((onnx, tflite), base, limits) == (
        "onnx: latency 2 ms, budget < 1 ms",
        "tflite: size 120 B, budget < 110 B",
    )
    assert misses_of_all((onnx,), base, limits) == misses(onnx, base, limits) == ("latency 2 ms, budget < 1 ms",)
