import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.errors import DataError
from edgepress.runtime.machine import Disturbance, Doubt, Machine
from edgepress.runtime.placement import Placed
from edgepress.runtime.sustain import Moment, Sustained
from edgepress.runtime.timing import LanguageTiming, Timing, from_json, read_timing, to_json

MACHINE = Machine("aarch64", "Cortex-A76", 4, 8192, "Linux 6.6", "3.12.1", "ondemand", 2400.0, 48.2, 0.3)
TIMING = Timing(
    name="digits-int8",
    run="4f2a",
    load_ms=12.5,
    first_run_ms=1.5,
    cold_start_ms=150.0,
    rounds=((1.0, 3.0), (2.0, 4.0, 5.0)),
    peak_memory=62_000_000,
    threads=1,
    providers=("CPUExecutionProvider",),
    shapes={"image": (4, 1, 32, 32)},
    batch=4,
    machine=MACHINE,
    disturbance=Disturbance(1.1, 0.2, 48.0, 7),
    doubts=(Doubt("noisy", "runs vary by 14%; close other programs"),),
    placed=(Placed("fc", "Gemm", "qnn", "npu"), Placed("act", "Softmax", "cpu", "cpu", "no kernel")),
)

ms = st.floats(1e-4, 1e5, allow_nan=False)
rounds = st.lists(st.lists(ms, min_size=1, max_size=5).map(tuple), min_size=1, max_size=8).map(tuple)


def percentile(samples: list[float], q: float) -> float:
    """Linear between the neighbours of place q (n - 1) / 100 in the sorted samples (Hyndman & Fan 1996, type 7)."""
    ordered = sorted(samples)
    place = q * (len(ordered) - 1) / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def test_the_samples_are_those_of_all_rounds_in_their_order():
    assert TIMING.samples == (1.0, 3.0, 2.0, 4.0, 5.0)


@given(rounds, st.floats(0, 100))
def test_percentiles_lie_linearly_between_the_samples(rounds, q):
    timing = replace(TIMING, rounds=rounds)
    assert timing.percentile(q) == pytest.approx(percentile([*timing.samples], q))


def test_the_named_percentiles_are_over_all_samples_and_not_over_the_rounds():
    assert TIMING.p50 == 3.0
    assert TIMING.p90 == pytest.approx(4.6)
    assert TIMING.p99 == pytest.approx(4.96)


def test_throughput_counts_the_samples_of_a_batch():
    assert TIMING.throughput == pytest.approx(1000 * 4 / 3.0)


@given(rounds, st.none() | ms, st.none() | st.integers(1, 64), st.text(max_size=20))
def test_json_gives_the_same_timings_back(rounds, alone, threads, name):
    timing = replace(TIMING, rounds=rounds, load_ms=alone, cold_start_ms=alone, threads=threads, name=name)
    assert from_json(to_json([timing, TIMING])) == (timing, TIMING)


def test_json_is_one_line_with_the_names_of_the_code():
    text = to_json([TIMING])
    assert "\n" not in text
    assert json.loads(text)[0] == json.loads(json.dumps(asdict(TIMING)))


def test_no_timings_are_an_empty_list():
    assert from_json(to_json([])) == ()


def test_a_figure_that_is_no_number_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json([replace(TIMING, load_ms=math.nan)])


@pytest.mark.parametrize("text", ["", "Killed", "{}", "null", "[1]", '["rounds"]', '[{"rounds": [[1]]}]', "[[]]"])
def test_what_no_bench_printed_is_refused_with_its_beginning(text):
    with pytest.raises(DataError, match=r"expected the JSON of edgepress\.runtime\.bench, got") as caught:
        from_json(text)
    assert repr(text[:60]) in str(caught.value)


@pytest.mark.parametrize("missing", sorted({*asdict(TIMING)} - {"language", "sustained", "placed"}))
def test_a_timing_lacks_nothing(missing):
    raw = asdict(TIMING)
    del raw[missing]
    with pytest.raises((KeyError, TypeError)):
        read_timing(raw)


def test_a_figure_that_is_unknown_here_is_refused():
    raw = json.loads(to_json([TIMING]))
    raw[0]["energy"] = 1.5
    with pytest.raises(DataError, match="energy"):
        from_json(json.dumps(raw))


def test_a_timing_of_an_older_version_tells_nothing_of_text():
    raw = asdict(TIMING)
    del raw["language"]
    assert read_timing(raw).language == ()


def test_what_is_seen_of_a_language_model_comes_back_and_gives_its_share():
    seen = LanguageTiming(128, (90.0, 100.0), (40.0, 50.0), (1.3, 1.2), (1e10, 1e10), 100_000_000, None)
    raw = json.loads(to_json([replace(TIMING, language=(seen,))]))
    assert from_json(json.dumps(raw))[0].language == (seen,)
    assert seen.share == pytest.approx(0.45)
    assert replace(seen, read=None).share is None


def test_a_sustained_run_comes_back_and_an_older_version_has_none():
    seen = Sustained(2.0, 30, (Moment(1.0, 15, 3.0, 4.0, 51.2, None, ("throttled",), None),), None)
    timing = replace(TIMING, sustained=seen)
    assert from_json(to_json([timing]))[0] == timing
    raw = asdict(TIMING)
    del raw["sustained"]
    assert read_timing(raw).sustained is None


def test_samples_that_are_averages_are_known_by_their_doubt():
    assert not TIMING.averaged
    assert replace(TIMING, doubts=(Doubt("averages", "averages of 24 runs each"),)).averaged
