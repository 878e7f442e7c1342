from dataclasses import replace

import pytest

from edgepress.compress.probing import probe_on, refuse_foreign
from edgepress.devices import find_device
from edgepress.runtime.errors import DeviceError, UsageError
from edgepress.runtime.machine import this_machine
from edgepress.runtime.probe import to_json

from .test_predict import PROBE


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


def test_what_is_no_probe_is_not_replaced(tmp_path):
    refuse_foreign(tmp_path / "new.json")
    (tmp_path / "probe.json").write_text(to_json(PROBE), encoding="utf-8")
    refuse_foreign(tmp_path / "probe.json")
    (tmp_path / "theirs.json").write_text("{}", encoding="utf-8")
    for path in (tmp_path / "theirs.json", tmp_path):
        with pytest.raises(UsageError, match="is no probe of edgepress and would be lost; name another file"):
            refuse_foreign(path)
