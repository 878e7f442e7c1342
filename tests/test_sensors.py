from pathlib import Path

import pytest

from edgepress.runtime.sensors import Places, look, number, vcgencmd, word


def write(sys: Path, files: dict[str, str]) -> Path:
    """Files below a folder that stands for `/sys`, each with the newline that the kernel writes."""
    for name, text in files.items():
        (sys / name).parent.mkdir(parents=True, exist_ok=True)
        (sys / name).write_text(f"{text}\n", encoding="ascii")
    return sys


def firmware(folder: Path, **answers: str) -> str:
    """A `vcgencmd` that answers to its first argument as a Raspberry Pi does; the folder, for a PATH."""
    folder.mkdir(exist_ok=True)
    cases = "".join(f"{name}) cat <<'END'\n{text}\nEND\n;;\n" for name, text in answers.items())
    program = folder / "vcgencmd"
    unknown = """*) echo 'error=1 error_msg="Command not registered"';;"""
    program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}{unknown}\nesac\n', encoding="ascii")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.fixture
def nowhere(tmp_path) -> Places:
    return Places(tmp_path / "sys", str(tmp_path / "bin"))


def test_a_system_that_tells_nothing_gives_nulls(nowhere):
    reading = look(nowhere)
    assert (reading.temperature_c, reading.frequency_mhz, reading.throttled, reading.events) == (None,) * 4
    assert reading.since(reading) is None


def test_the_hottest_zone_of_the_processor_and_the_fastest_core_are_read(tmp_path):
    sys = write(tmp_path / "sys", {
        "class/thermal/thermal_zone0/type": "acpitz", "class/thermal/thermal_zone0/temp": "90000",
        "class/thermal/thermal_zone1/type": "cpu-thermal", "class/thermal/thermal_zone1/temp": "48312",
        "class/thermal/thermal_zone2/type": "cpu-thermal", "class/thermal/thermal_zone2/temp": "51200",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000",
    })  # fmt: skip
    reading = look(Places(sys, ""))
    assert (reading.temperature_c, reading.frequency_mhz, reading.throttled) == (51.2, 2400.0, None)


def test_where_no_zone_is_named_after_the_processor_the_first_is_read(tmp_path):
    sys = write(tmp_path / "sys", {
        "class/thermal/thermal_zone0/type": "acpitz", "class/thermal/thermal_zone0/temp": "27800",
        "class/thermal/thermal_zone1/type": "iwlwifi_1", "class/thermal/thermal_zone1/temp": "60000",
    })  # fmt: skip
    assert look(Places(sys, "")).temperature_c == 27.8


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0x0", ()),
        ("0x50000", ()),  # bits 16 to 19 are of the time since the start
        ("0x50005", ("under-voltage", "throttled")),
        ("0xa", ("frequency capped", "soft temperature limit")),
    ],
)
def test_the_firmware_of_a_pi_says_why_it_slows_down_now(tmp_path, bits, reasons):
    path = firmware(tmp_path / "bin", get_throttled=f"throttled={bits}", measure_clock="frequency(0)=1500398464")
    reading = look(Places(tmp_path / "sys", path))
    assert reading.throttled == reasons
    assert reading.frequency_mhz == pytest.approx(1500.398464)


def test_the_clock_of_a_pi_is_what_the_firmware_measures_and_not_what_the_kernel_asked_for(tmp_path):
    sys = write(tmp_path / "sys", {"devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000"})
    path = firmware(tmp_path / "bin", get_throttled="throttled=0x4", measure_clock="frequency(0)=1000000000")
    assert look(Places(sys, path)).frequency_mhz == 1000.0


def test_a_counter_that_grew_is_throttling_in_between(tmp_path):
    file = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    places = Places(write(tmp_path / "sys", {file: "7"}), "")
    before = look(places)
    assert look(places).since(before) == ()
    write(places.sys, {file: "9"})
    assert look(places).since(before) == ("thermal throttling",)


def test_a_vcgencmd_that_fails_or_cannot_start_is_no_answer(tmp_path):
    program = tmp_path / "vcgencmd"
    for text in ("#!/bin/sh\nexit 1\n", "#!/nowhere/at/all\n"):
        program.write_text(text)
        program.chmod(0o755)
        assert vcgencmd(Places(path=str(tmp_path)), ["get_throttled"]) is None


def test_the_path_of_the_environment_is_looked_through_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", firmware(tmp_path / "bin", get_throttled="throttled=0x2", measure_clock="error=1"))
    assert look(Places(tmp_path)).throttled == ("frequency capped",)


def test_files_that_hold_something_else_are_nothing(tmp_path):
    write(tmp_path, {"a": "12", "b": "<unknown>"})
    assert (number(tmp_path / "a"), number(tmp_path / "b"), number(tmp_path / "c")) == (12, None, None)
    assert (word(tmp_path / "b"), word(tmp_path / "c")) == ("<unknown>", "")
