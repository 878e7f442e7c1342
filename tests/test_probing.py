from dataclasses import replace

import pytest

from edgepress.compress.probing import probe_on
from edgepress.devices import find_device
from edgepress.runtime.errors import DeviceError
from edgepress.runtime.machine import this_machine


def test_a_device_is_probed_in_a_process_there():
    told: list[str] = []
    found = probe_on(replace(find_device("host"), threads=1), seconds=0.5, tell=told.append)
    assert (found.machine.cpu, found.threads, dict(found.missing)) == (this_machine().cpu, 1, {})
    assert told == ["sending kernels to host", "probing host for 0 s"]


def test_a_device_without_an_address_and_an_emulated_one_are_refused():
    with pytest.raises(DeviceError, match="pi5 has no address, so it cannot be probed; name one as ssh://"):
        probe_on(find_device("pi5"))
    with pytest.raises(DeviceError, match="pi5 is emulated, whose speed says nothing; probe a real device"):
        probe_on(replace(find_device("pi5"), link="emu://pi5"))
