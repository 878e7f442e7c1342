from dataclasses import replace

import numpy as np
import pytest

from edgepress.devices import find_device
from edgepress.devices.benching import benching
from edgepress.runtime.errors import DeviceError


def test_each_bench_is_a_process_of_its_own_with_the_device_s_settings(make_artifact):
    artifact = make_artifact("one")
    with benching([artifact], replace(find_device("host"), threads=1)) as bench:
        first, second = bench(artifact, "--runs", "3"), bench(artifact, "--runs", "3", "--threads", "2")
    assert first.run != second.run
    assert (first.threads, second.threads) == (1, 2)  # what is asked for wins


def test_the_inputs_that_the_user_names_are_run(make_artifact, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((7, 64), np.float32))
    with benching([make_artifact("one")], find_device("host"), tmp_path / "x.npz") as bench:
        assert bench(make_artifact("one"), "--runs", "3").batch == 7


def test_a_device_without_an_address_is_refused(make_artifact):
    with (
        pytest.raises(DeviceError, match="nothing can be timed on pi5: its profile has no address"),
        benching([make_artifact("one")], find_device("pi5")),
    ):
        pass


def test_what_goes_wrong_there_is_told_in_a_line(make_artifact):
    artifact = make_artifact("one")
    with (
        benching([artifact], find_device("host")) as bench,
        pytest.raises(DeviceError, match=r"^a batch of 0; expected 1 or more, and an input with a free first axis"),
    ):
        bench(artifact, "--batch", "0")


def test_an_emulated_device_is_refused_for_its_speed_says_nothing(make_artifact):
    with (
        pytest.raises(DeviceError, match=r"pi5 \(emulated\) is emulated, whose speed says nothing; name a real device"),
        benching([make_artifact("one")], replace(find_device("host"), name="pi5 (emulated)", link="emu://pi5")),
    ):
        pass
