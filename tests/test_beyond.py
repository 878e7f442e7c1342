import json
from dataclasses import replace

import pytest

from edgepress.devices import find_device
from edgepress.devices.beyond import Wishes, beyond, with_best_threads
from edgepress.devices.html import to_html
from edgepress.devices.measure import measure
from edgepress.devices.report import Report, from_json, sections, to_json, to_markdown
from edgepress.runtime.errors import DeviceError


@pytest.fixture(scope="module")
def report(make_artifact) -> Report:
    artifacts, host = [make_artifact("base", width=256), make_artifact("one")], replace(find_device("host"), threads=1)
    rows = measure(artifacts, host, runs=3)
    told: list[str] = []
    rows = beyond(rows, artifacts, host, Wishes((1, 4), 2, 2.2), tell=told.append)
    assert told == ["timing each in 2 processes", "trying batches of one", "running one for 2 s without a pause"]
    return Report("one", host, rows, ships="one")


def test_all_are_repeated_and_the_last_is_tried_and_run_without_a_pause(report):
    base, last = report.rows
    assert [len(row.repeats) for row in report.rows] == [2, 2]
    assert (base.tried, base.timing.sustained) == ((), None)
    assert [one.batch for one in last.tried] == [1, 4]
    assert len(last.timing.sustained.curve) >= 2


def test_the_report_tells_it_in_words_in_json_and_as_a_curve(report):
    told = dict(sections(report))
    assert told["threads and batches"][0].startswith("one: 1 thread, batch 1: ")
    assert [line.split(":")[0] for line in told["repeated"]] == ["base", "one"]
    assert told["sustained"][0].startswith("one: 2 s: ")
    assert told["sustained"][0] in to_markdown(report).replace("\\|", "|")
    assert from_json(to_json(report)) == report
    page = to_html(report)
    assert "latency, median of the second over second" in page
    assert "What the latency became without a pause between runs." in page


def test_a_report_of_an_older_version_has_none_of_it(report):
    raw = json.loads(to_json(report))
    for row in raw["rows"]:
        del row["tried"], row["repeats"], row["timing"]["sustained"]
    assert all((row.tried, row.repeats, row.timing.sustained) == ((), (), None)
               for row in from_json(json.dumps(raw)).rows)  # fmt: skip


def test_nothing_is_looked_at_that_was_not_wished_for(report):
    assert beyond(report.rows, [], find_device("pi5"), Wishes()) == report.rows


def test_the_best_count_of_threads_becomes_the_device_s(make_artifact):
    device, tried = with_best_threads(make_artifact("one"), find_device("host"), None, lambda text: None)
    assert device.threads in {one.threads for one in tried}


def test_a_device_without_an_address_is_refused(report, make_artifact):
    with pytest.raises(DeviceError, match="its profile has no address"):
        beyond(report.rows, [make_artifact("one")], find_device("pi5"), Wishes(repeat=2))
