from dataclasses import replace

import pytest

from edgepress.devices import find_device
from edgepress.devices.benching import benching
from edgepress.devices.sweep import Tried, best, read_batches, show_tried, thread_counts, try_batches, try_threads
from edgepress.runtime.errors import UsageError
from edgepress.runtime.machine import this_machine


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, (1,)), (2, (1, 2)), (4, (1, 2, 3, 4)), (8, tuple(range(1, 9))), (24, (*range(1, 9), 16, 24)),
     (64, (*range(1, 9), 16, 32, 64))],
)  # fmt: skip
def test_every_count_is_tried_on_a_few_cores_and_the_doubles_on_many(cores, counts):
    assert thread_counts(cores) == counts


def test_the_fastest_count_is_taken_or_a_smaller_one_that_is_as_fast():
    tried = [Tried(1, 1, 4.0, 250), Tried(2, 1, 2.04, 490), Tried(3, 1, 2.0, 500), Tried(4, 1, 2.4, 417)]
    assert best(tried).threads == 2
    assert best([replace(tried[0], p50=1.0), *tried[1:]]).threads == 1
    assert best([*tried[:1], replace(tried[1], p50=2.1), *tried[2:]]).threads == 3


def test_each_count_of_threads_is_tried_on_the_device(make_artifact):
    artifact = make_artifact("one", batch=2)
    with benching([artifact], find_device("host")) as bench:
        tried = try_threads(bench, artifact)
    assert tuple(one.threads for one in tried) == thread_counts(this_machine().cores)
    assert all(one.throughput == pytest.approx(2000 / one.p50) and one.batch == 2 for one in tried)


def test_each_batch_is_tried_on_the_device(make_artifact):
    artifact = make_artifact("one")
    with benching([artifact], replace(find_device("host"), threads=1)) as bench:
        tried = try_batches(bench, artifact, (1, 16))
    assert [(one.threads, one.batch) for one in tried] == [(1, 1), (1, 16)]
    assert all(one.throughput == pytest.approx(1000 * one.batch / one.p50) for one in tried)


def test_batches_are_numbers_with_commas_between():
    assert read_batches("1, 4,16,4") == (1, 4, 16)
    for text in ("0", "1,", "a", "1;2", "-1"):
        with pytest.raises(UsageError, match=f"--batch {text}: expected numbers from 1 on with commas between, as"):
            read_batches(text)


def test_what_was_tried_is_a_line_each():
    tried = [Tried(None, 1, 0.5, 2000.0), Tried(1, 1, 0.5, 2000.0), Tried(2, 16, 3.1, 5161.3)]
    assert show_tried(tried) == [
        "the engine's threads, batch 1: 0.5 ms, 2000 samples/s",
        "1 thread, batch 1: 0.5 ms, 2000 samples/s",
        "2 threads, batch 16: 3.1 ms, 5161 samples/s",
    ]
