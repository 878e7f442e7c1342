import platform
from pathlib import Path

import pytest

from edgepress.devices import Device, device_names, find_device
from edgepress.devices.device import read_profile, unreached
from edgepress.runtime.errors import DeviceError, UnknownName, UsageError
from edgepress.runtime.session import ENGINES

from .boards import running_board

PROFILE = """
cpu = "four cores"
arch = "aarch64"
ram_mb = 512
threads = 4
formats = ["onnx"]
units = ["cpu"]
activation = "int8"
"""


@pytest.mark.parametrize("name", device_names())
def test_every_profile_is_complete_and_says_where_it_is_from(name):
    device = find_device(name)
    assert device.name == name
    assert device.activation in ("uint8", "int8")
    assert device.formats
    assert set(device.formats) <= set(ENGINES)
    assert device.units
    assert device.sources
    assert device.description
    assert device.threads is None or device.threads > 0


def test_the_profiles_are_browser_host_and_the_raspberry_pis():
    assert {"browser", "host", "pi4", "pi5"} <= set(device_names())


def test_the_browser_is_on_this_machine_whose_engine_records_its_golden_samples():
    browser, host = find_device("browser"), find_device("host")
    for name in ("cpu", "arch", "ram_mb", "reduce_range", "threads"):
        assert getattr(browser, name) == getattr(host, name)
    assert browser.activation == "uint8"
    assert browser.link == "browser"


def test_the_host_is_this_machine():
    host = find_device("host")
    assert host.arch == platform.machine()
    assert host.link == "local"
    assert host.cpu
    assert find_device("local") == host


def test_the_activation_type_belongs_to_the_processor():
    assert {find_device(name).activation for name in ("pi4", "pi5")} == {"int8"}
    expected = {"x86_64": "uint8", "aarch64": "int8", "arm64": "int8"}
    assert find_device("host").activation == expected[platform.machine()]


def test_weights_keep_to_7_bits_where_the_processor_adds_int8_products_in_16():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if platform.machine() == "x86_64" else "_vnni"
    assert find_device("host").reduce_range == ("_vnni" not in flags)
    assert not any(find_device(name).reduce_range for name in ("pi4", "pi5"))


def test_a_profile_without_an_address_has_no_link():
    assert find_device("pi5").link == ""


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(UnknownName, match=r"unknown device 'pi6'; known: browser, host, local, pi4, pi5, .*sm8650"):
        find_device("pi6")


def test_a_name_cannot_leave_the_folder_of_profiles():
    with pytest.raises(UnknownName):
        find_device("../profiles/pi5")


def test_an_address_with_an_unknown_scheme_names_the_links():
    for address, scheme in (("carrier://roof", "carrier"), ("local://x", "local")):
        with pytest.raises(UnknownName, match=rf"unknown link '{scheme}'; known: adb, browser, emu, local, ssh"):
            find_device(address)
    with pytest.raises(UnknownName, match=r"unknown emulated board 'pi9'; known: pi4, pi5"):
        find_device("emu://pi9")


def test_a_board_tells_what_it_is(tmp_path):
    with running_board(tmp_path) as board:
        board.ready()
        device, host = find_device(board.address()), find_device("host")
        assert device.name == f"127.0.0.1:{board.port}"
        assert (device.cpu, device.arch, device.ram_mb) == (host.cpu, host.arch, host.ram_mb)
        assert device.activation == host.activation
        assert device.reduce_range == host.reduce_range
        assert "onnx" in device.formats
        assert device.link == board.address()
        assert not device.emulated


def test_a_board_that_tells_something_else_is_refused(tmp_path):
    with running_board(tmp_path) as board:
        python = board.ready() / "venv" / "bin" / "python"
        python.unlink()
        python.write_text("#!/bin/sh\necho hello\n")
        python.chmod(0o755)
        with pytest.raises(DeviceError, match=r"did not tell what it is .* set it up again"):
            find_device(board.address())


def test_a_device_that_was_not_reached_is_known_by_its_name_alone():
    device = unreached("kitchen", "ssh://pi@kitchen")
    assert (device.name, device.link, device.cpu, device.formats) == ("kitchen", "ssh://pi@kitchen", "unknown", ())


def test_a_profile_is_read():
    device = read_profile("board", PROFILE)
    assert device == Device("board", "four cores", "aarch64", 512, 4, ("onnx",), ("cpu",), "int8")


def test_an_unknown_key_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown key 'colour'; known: activation, arch, cpu, description, formats"):
        read_profile("board", PROFILE + 'colour = "green"\n')


def test_a_missing_key_is_named():
    with pytest.raises(UsageError, match="lacks ram_mb"):
        read_profile("board", PROFILE.replace("ram_mb = 512\n", ""))


def test_a_profile_that_is_no_toml_is_refused():
    with pytest.raises(UsageError, match="'board' is not TOML"):
        read_profile("board", "cpu = ")


def test_an_npu_says_which_types_and_operators_it_takes():
    npu = find_device("sm8650").npu
    assert npu is not None
    assert npu.provider == find_device("sm8650").units[0] == "qnn"
    assert npu.fixed
    assert "uint8" in npu.activations
    assert "Conv" in npu.ops
    assert "DynamicQuantizeLinear" not in npu.ops
    assert list(npu.ops) == sorted(npu.ops)
    assert find_device("pi5").npu is None


def test_an_npu_that_is_not_whole_is_refused():
    with pytest.raises(UsageError, match=r"\[npu\] of fixed; expected provider, fixed, weights, activations, ops"):
        read_profile("board", PROFILE + "[npu]\nfixed = true\n")
    with pytest.raises(UsageError, match=r"\[npu\] of 3; expected"):
        read_profile("board", PROFILE + "npu = 3\n")
