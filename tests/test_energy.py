from pathlib import Path

import pytest

from edgepress.runtime.energy import find_meter, rails
from edgepress.runtime.sensors import Places

from .test_sensors import firmware, write

# As a Raspberry Pi 5 prints it: currents first, voltages after, two of them of no load.
PMIC = """\
 3V7_WL_SW_A current(0)=0.00585576A
   3V3_SYS_A current(1)=0.06929316A
  VDD_CORE_A current(7)=0.81231000A
   3V3_DAC_A current(17)=0.00018315A
 3V7_WL_SW_V volt(8)=3.70312500V
   3V3_SYS_V volt(9)=3.31032300V
  VDD_CORE_V volt(15)=0.72013190V
   3V3_DAC_V volt(20)=3.30994600V
    EXT5V_V volt(24)=5.14958100V
      BATT_V volt(25)=0.00488400V"""
WATTS = 0.00585576 * 3.703125 + 0.06929316 * 3.310323 + 0.81231 * 0.7201319 + 0.00018315 * 3.309946


def rapl(sys: Path, joules: float, zone: str = "0") -> Path:
    name = f"class/powercap/intel-rapl:{zone}"
    return write(sys, {f"{name}/name": f"package-{zone}", f"{name}/energy_uj": f"{joules * 1e6:.0f}",
                       f"{name}/max_energy_range_uj": "262143328850"})  # fmt: skip


def battery(sys: Path, **figures: str) -> Path:
    return write(sys, {f"class/power_supply/BAT0/{name}": text for name, text in figures.items()})


def test_the_rails_of_a_pi_5_are_paired_by_name_and_the_input_is_none_of_them():
    found = rails(PMIC)
    assert set(found) == {"3V7_WL_SW", "3V3_SYS", "VDD_CORE", "3V3_DAC"}
    assert sum(found.values()) == pytest.approx(WATTS)
    assert rails("error=1") == {}


def test_the_pmic_adds_up_its_power_and_says_that_it_is_not_the_input(tmp_path):
    meter = find_meter(Places(tmp_path, firmware(tmp_path / "bin", pmic_read_adc=PMIC)))
    assert meter is not None
    assert meter.source == "pmic"
    assert meter.what == "the rails of the PMIC, not the board's total input"
    assert meter.read(10.0) == pytest.approx(10 * WATTS)
    assert 0 < meter.joules() < meter.joules()


def test_a_pi_without_the_pmic_tells_nothing(tmp_path):
    assert find_meter(Places(tmp_path, firmware(tmp_path / "bin", get_throttled="throttled=0x0"))) is None


def test_rapl_counts_all_packages_and_what_is_within_them_only_once(tmp_path):
    rapl(rapl(tmp_path, 100.0), 50.0, "1")
    for zone, name in (("0:0", "core"), ("2", "psys")):
        folder = f"class/powercap/intel-rapl:{zone}"
        write(tmp_path, {f"{folder}/name": name, f"{folder}/energy_uj": "1"})
    meter = find_meter(Places(tmp_path, ""))
    assert meter is not None
    assert meter.source == "rapl"
    rapl(rapl(tmp_path, 103.0), 50.5, "1")
    assert meter.joules() == pytest.approx(3.5)
    rapl(tmp_path, 104.0)
    assert meter.joules() == pytest.approx(4.5)


def test_a_counter_that_began_again_goes_on_from_its_range(tmp_path):
    rapl(tmp_path, 262143.0)
    meter = find_meter(Places(tmp_path, ""))
    assert meter is not None
    rapl(tmp_path, 2.0)
    assert meter.joules() == pytest.approx(2.0 + 0.32885)


def test_a_battery_tells_its_power_or_current_and_voltage_while_it_drives_the_machine(tmp_path):
    battery(tmp_path, status="Discharging", current_now="1500000", voltage_now="12000000")
    meter = find_meter(Places(tmp_path, ""))
    assert meter is not None
    assert (meter.source, meter.what) == ("battery", "the whole machine, from its battery")
    assert meter.read(2.0) == pytest.approx(36.0)
    battery(tmp_path, power_now="20000000")
    assert meter.read(2.0) == pytest.approx(38.0)  # the mean of 18 W and 20 W


def test_a_battery_that_is_charged_or_unplugged_says_nothing_of_the_machine(tmp_path):
    battery(tmp_path, status="Charging", power_now="20000000")
    assert find_meter(Places(tmp_path, "")) is None
    battery(tmp_path, status="Discharging")
    meter = find_meter(Places(tmp_path, ""))
    assert meter is not None
    (tmp_path / "class/power_supply/BAT0/power_now").unlink()
    assert meter.read(1.0) == pytest.approx(20.0)


def test_a_machine_that_tells_nothing_has_no_meter(tmp_path):
    assert find_meter(Places(tmp_path, "")) is None
    write(tmp_path, {"class/powercap/intel-rapl:0/name": "package-0"})  # only root may read the counter
    assert find_meter(Places(tmp_path, "")) is None
