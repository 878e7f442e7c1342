from dataclasses import replace

import pytest

from edgepress.devices import find_device
from edgepress.devices.benching import benching
from edgepress.devices.repeat import doubts, repeat, show_repeats, spread
from edgepress.runtime.errors import UsageError
from edgepress.runtime.machine import Doubt


def timings(make_row, *ms: float, seen: tuple[Doubt, ...] = ()):
    return [replace(make_row("one", 1, ms=one).timing, doubts=seen) for one in ms]


def test_each_artifact_is_benched_in_as_many_processes(make_artifact):
    artifacts = [make_artifact("one"), make_artifact("wide", width=256)]
    with benching(artifacts, replace(find_device("host"), threads=1)) as bench:
        found = repeat(bench, artifacts, 2, runs=3)
    assert [[timing.name for timing in one] for one in found] == [["one", "one"], ["wide", "wide"]]
    assert len({timing.run for one in found for timing in one}) == 4


@pytest.mark.parametrize("times", [1, -1])
def test_one_run_repeats_nothing(times):
    with pytest.raises(UsageError, match=f"--repeat {times}: expected at least 2 runs, or there is nothing to compare"):
        repeat(lambda *_: pytest.fail("benched"), [], times)


def test_the_spread_is_the_distance_of_the_outermost_over_the_middle():
    assert spread([1.0, 1.2, 1.1]) == pytest.approx(0.2 / 1.1)
    assert show_repeats([2.0, 2.1]) == "of 2 processes: 2 ms to 2.1 ms, 4.9 % apart"


def test_medians_within_3_percent_are_in_no_doubt(make_row):
    assert doubts(timings(make_row, 1.0, 1.02, 1.01)) == ()


def test_medians_further_apart_are_a_doubt_with_what_was_seen(make_row):
    seen = (Doubt("few-runs", "p99 from 5 runs"), Doubt("noisy", "runs vary"), Doubt("governor", "it is powersave"))
    (doubt,) = doubts(timings(make_row, 1.0, 1.1, seen=seen))
    assert doubt.code == "repeat"
    assert doubt.text == (
        "p50 of 2 processes: 1 ms to 1.1 ms, 9.5 % apart, expected within 3%; perhaps since it is powersave"
    )
    (doubt,) = doubts(timings(make_row, 1.0, 1.1))
    assert doubt.text.endswith("expected within 3%; nothing that was looked at says why")
