import json
import time
from dataclasses import asdict, replace

import pytest

from edgepress.runtime.energy import Energy
from edgepress.runtime.errors import UsageError
from edgepress.runtime.sensors import Places
from edgepress.runtime.sustain import MOST, Moment, Sustained, doubts, read_sustained, sustain

from .test_energy import PMIC, rapl
from .test_sensors import firmware, write


def curve(*p50s: float, throttled: tuple[str, ...] | None = None) -> Sustained:
    moments = [Moment(float(i), 100, p50, 2 * p50, 50.0 + i, 2400.0, throttled, 0.1) for i, p50 in enumerate(p50s, 1)]
    return Sustained(float(len(p50s)), 100 * len(p50s), tuple(moments))


def test_each_moment_tells_its_calls_their_median_and_the_slowest(tmp_path):
    found = sustain(lambda: time.sleep(0.002), 0.4, every=0.1, places=Places(tmp_path, ""))
    assert 4 <= len(found.curve) <= 6
    assert found.runs == sum(moment.runs for moment in found.curve)
    assert all(2.0 <= moment.p50 <= moment.slowest for moment in found.curve)
    assert [moment.at for moment in found.curve] == sorted(moment.at for moment in found.curve)
    assert found.seconds >= 0.4
    assert found.energy is None
    assert {(m.temperature_c, m.frequency_mhz, m.throttled) for m in found.curve} == {(None, None, None)}


def test_a_call_that_takes_longer_than_a_moment_is_a_moment(tmp_path):
    found = sustain(lambda: time.sleep(0.05), 0.12, every=0.01, places=Places(tmp_path, ""))
    assert [moment.runs for moment in found.curve] == [1, 1, 1]


def test_the_curve_is_bounded(tmp_path):
    found = sustain(lambda: None, 0.3, every=1e-6, places=Places(tmp_path, ""))
    assert len(found.curve) <= MOST


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_time_at_all_is_refused(seconds):
    with pytest.raises(UsageError, match="expected more than 0"):
        sustain(lambda: None, seconds)


def test_sensors_and_energy_of_a_pi_5_are_read_beside_the_calls(tmp_path):
    sys = write(tmp_path / "sys", {"class/thermal/thermal_zone0/type": "cpu-thermal",
                                   "class/thermal/thermal_zone0/temp": "82300"})  # fmt: skip
    path = firmware(tmp_path / "bin", get_throttled="throttled=0x80008", measure_clock="frequency(0)=1800000000",
                    pmic_read_adc=PMIC)  # fmt: skip
    found = sustain(lambda: time.sleep(0.01), 0.3, every=0.1, idle=0.05, places=Places(sys, path))
    assert {m.temperature_c for m in found.curve} == {82.3}
    assert {m.frequency_mhz for m in found.curve} == {1800.0}
    assert list(found.throttled) == ["soft temperature limit"]
    assert found.energy is not None
    assert found.energy.source == "pmic"
    assert found.energy.watts == pytest.approx(found.energy.idle_watts, rel=0.05)
    assert found.energy.joules_per_run == pytest.approx(found.energy.watts * found.seconds / found.runs, rel=1e-6)
    (doubt,) = doubts(found)
    assert doubt.code == "throttled"
    seen = "the processor was slowed down in the sustained run: soft temperature limit after 0 s"
    assert doubt.text == f"{seen}; cool it, or count on the latency at last"


def test_energy_without_a_look_at_the_idle_machine_says_so_with_a_null(tmp_path):
    found = sustain(lambda: None, 0.01, idle=0.0, places=Places(rapl(tmp_path, 5.0), ""))
    assert found.energy is not None
    assert found.energy.idle_watts is None
    assert found.energy.joules_per_run == 0.0


def test_a_curve_that_climbs_is_in_doubt_although_nothing_says_why():
    found = curve(*[1.0] * 5, *[1.3] * 10)
    assert (found.first, found.last) == (1.0, 1.3)
    assert found.slower
    (doubt,) = doubts(found)
    assert doubt.code == "throttled"
    assert doubt.text == (
        "the last fifth of the sustained run is 30% slower than the first; cool it, or count on the latency at last"
    )


def test_a_curve_that_climbs_while_others_work_is_no_heat():
    found = curve(*[1.0] * 5, *[1.3] * 10)
    busy = tuple(replace(moment, others=1.2) for moment in found.curve[5:])
    (doubt,) = doubts(replace(found, curve=(*found.curve[:5], *busy)))
    assert doubt.code == "other-load"
    assert doubt.text == (
        "the last fifth of the sustained run is 30% slower than the first; other programs kept 1.2 cores busy by then, "
        "0.1 at first: close them"
    )


@pytest.mark.parametrize(
    "found",
    [
        curve(*[1.0] * 20),
        curve(*[1.0, 1.04] * 10),
        curve(*[1.0, 1.5, 1.0, 1.5] * 5),  # noise
        curve(1.0, 1.5),  # too short to say
        curve(*[1.3] * 5, *[1.0] * 10),  # it became faster
        curve(*[1.0] * 20, throttled=()),
    ],
)
def test_noise_and_steadiness_are_in_no_doubt(found):
    assert list(doubts(found)) == []


def test_a_reason_is_told_with_the_second_in_which_it_was_first_seen():
    hot = curve(*[1.0] * 6, throttled=("frequency capped",))
    found = replace(hot, curve=(*curve(1.0, 1.0, throttled=()).curve, *hot.curve[2:]))
    assert found.throttled == {"frequency capped": 3.0}


@pytest.mark.parametrize("energy", [None, Energy(0.002, 4.1, 2.9, "pmic", "the rails")])
def test_json_gives_the_same_run_back(energy):
    found = replace(curve(1.0, 1.2, throttled=("throttled",)), energy=energy)
    assert read_sustained(json.loads(json.dumps(asdict(found)))) == found
    assert read_sustained(json.loads(json.dumps(asdict(curve(1.0))))) == curve(1.0)
