from dataclasses import replace

import pytest

from edgepress.devices import find_device
from edgepress.devices.lasting import read_seconds, show_sustained, sustained
from edgepress.devices.measure import measure
from edgepress.runtime.energy import Energy
from edgepress.runtime.errors import DeviceError, UsageError
from edgepress.runtime.sustain import Moment, Sustained

HOT = Sustained(
    300.2,
    900_000,
    tuple(Moment(float(i), 3000, 0.15 if i < 100 else 0.21, 0.9, 48.0 + i / 8, 2400.0 if i < 100 else 1500.0,
                 () if i < 97 else ("frequency capped",)) for i in range(1, 301)),
    Energy(0.00121, 4.03, 2.8, "pmic", "the rails of the PMIC, not the board's total input"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), (" 1.5 h", 5400), ("0.5s", 0.5)])
def test_a_time_is_read_as_people_write_it(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "5 min", "-3", "m", "1d", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time; expected one above 0 as 90s, 5m or 1h"):
        read_seconds(text)


def test_a_line_tells_the_latency_the_heat_the_clock_the_reason_and_the_energy():
    assert show_sustained(HOT) == (
        "300 s: 0.15 ms at first, 0.21 ms at last (1.40x), 48 to 86 °C, 2400 to 1500 MHz, frequency capped after 97 s, "
        "1.21 mJ a run (4.03 W; 2.8 W while idle; the rails of the PMIC, not the board's total input)"
    )


def test_what_no_sensor_tells_is_not_in_the_line():
    dark = replace(HOT, curve=(Moment(1.0, 9, 2.0, 3.0, None, None, None),), energy=None)
    assert show_sustained(dark) == "300 s: 2 ms at first, 2 ms at last (1.00x)"
    steady = replace(dark, curve=(Moment(1.0, 9, 2.0, 3.0, None, None, ()),))
    assert show_sustained(steady) == "300 s: 2 ms at first, 2 ms at last (1.00x), not throttled"


def test_a_row_gets_its_sustained_run_from_a_process_on_the_device(make_artifact):
    artifact, host = make_artifact("one"), replace(find_device("host"), threads=1)
    (row,) = measure([artifact], host, runs=3)
    lasted = sustained(row, artifact, host, 0.3)
    assert lasted.timing is not None
    assert lasted.timing.sustained is not None
    assert lasted.timing.sustained.runs > 0
    assert replace(lasted.timing, sustained=None) == row.timing


def test_a_device_without_an_address_cannot_last(make_artifact):
    artifact = make_artifact("one")
    (row,) = measure([artifact], find_device("pi5"))
    with pytest.raises(DeviceError, match="nothing can be timed on pi5: its profile has no address; name another with"):
        sustained(row, artifact, find_device("pi5"), 1.0)
