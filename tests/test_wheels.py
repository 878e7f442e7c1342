import json

import pytest

from edgepress.devices.wheels import Target, fetch_wheels, read_target
from edgepress.runtime.errors import DeviceError

from .boards import fetching

PI = {"python": "/usr/bin/python3", "version": [3, 11], "bits": 64, "arch": "aarch64", "libc": "glibc",
      "libc_version": "2.36"}  # fmt: skip


def test_what_a_device_tells_becomes_what_a_wheel_must_fit():
    assert read_target(json.dumps(PI), "pi") == Target("/usr/bin/python3", (3, 11), "aarch64", 36)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {"bits": 32, "arch": "armv7l"},
            r"pi runs a 32-bit system \(armv7l\), for which the engines have no wheels; .*64",
        ),
        ({"bits": 32, "arch": "aarch64"}, "pi runs a 32-bit system"),  # 32-bit Raspberry Pi OS has a 64-bit kernel
        ({"version": [3, 9]}, r"pi has Python 3\.9, edgepress needs 3\.11 or newer; Raspberry Pi OS has it from 12"),
        (
            {"libc": "", "libc_version": ""},  # musl
            "pi has no glibc, which the engines' wheels need; with NumPy and an engine of its own there: --own",
        ),
        ({"libc": "libc", "libc_version": ""}, "pi has no glibc"),  # Android's
    ],
)
def test_a_device_that_no_wheel_fits_is_told_why(told, says):
    with pytest.raises(DeviceError, match=says):
        read_target(json.dumps(PI | told), "pi")


def test_what_only_wheels_need_is_not_asked_of_a_device_with_packages_of_its_own():
    phone = PI | {"bits": 32, "libc": "libc", "libc_version": ""}
    assert read_target(json.dumps(phone), "phone", wheels=False) == Target("/usr/bin/python3", (3, 11), "aarch64", 0)
    with pytest.raises(DeviceError, match=r"phone has Python 3\.10, edgepress needs 3\.11 or newer"):
        read_target(json.dumps(phone | {"version": [3, 10]}), "phone", wheels=False)


def test_a_device_without_python_is_told_what_installs_it():
    with pytest.raises(DeviceError, match=r"pi has no Python 3; there: sudo apt-get install python3 python3-venv"):
        read_target("", "pi")


def test_wheels_fit_the_device_and_not_this_machine(tmp_path):
    with fetching():
        fetch_wheels(Target("", (3, 12), "aarch64", 36), ["numpy"], tmp_path)
    (wheel,) = tmp_path.iterdir()
    assert "cp312" in wheel.name
    assert wheel.name.endswith("aarch64.whl")
