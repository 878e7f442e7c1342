import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from edgepress.runtime.machine import Counters, counters, disturbance, peak_memory, this_machine, wait_for_idle

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_the_machine_says_what_the_system_says():
    machine = this_machine()
    assert machine.arch == platform.machine()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.python == platform.python_version()
    assert machine.cpu
    assert "\n" not in machine.cpu


@linux
def test_what_the_system_does_not_tell_is_null():
    governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert (this_machine().governor is not None) == os.path.exists(governor)  # noqa: PTH110 - the plain question
    zone = "/sys/class/thermal/thermal_zone0/temp"
    assert (this_machine().temperature_c is not None) == os.path.exists(zone)  # noqa: PTH110


def test_a_system_without_a_load_average_has_none(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")  # as in Termux
    assert this_machine().load is None


@linux
def test_peak_memory_grows_by_what_was_touched_and_never_shrinks():
    before = peak_memory()
    block = np.ones(64 << 20, np.uint8)
    during = peak_memory()
    del block
    after = peak_memory()
    assert before is not None
    assert during is not None
    assert after is not None
    slack = 1 << 20  # the kernel counts pages per core and adds them up late
    assert after >= during - slack
    assert during >= before - slack
    assert during >= 64 << 20


@linux
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    block = np.ones(256 << 20, np.uint8)
    code = "from edgepress.runtime.machine import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert block.nbytes > 200_000_000
    assert 5_000_000 < int(child.stdout) < 150_000_000


@linux
def test_the_age_of_a_process_is_the_time_since_its_start():
    start = time.perf_counter()
    code = "import time; time.sleep(0.2); from edgepress.runtime.machine import process_age; print(process_age())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.2 <= float(child.stdout) <= time.perf_counter() - start + 0.02  # the kernel counts in 10 ms


def test_own_work_is_not_what_others_did():
    before = Counters(wall=10.0, own=1.0, busy=100.0, steal=2.0, total=200.0, switches=5)
    after = Counters(wall=12.0, own=2.5, busy=104.5, steal=2.4, total=208.0, switches=9)
    seen = disturbance(before, after)
    assert seen.seconds == 2.0
    assert seen.others == pytest.approx((4.5 - 1.5) / 2.0)
    assert seen.steal == pytest.approx(0.4 / 8.0)
    assert seen.switches == 4


def test_a_system_without_counters_gives_nulls():
    before = Counters(wall=0.0, own=0.0, busy=None, steal=None, total=None, switches=0)
    after = Counters(wall=1.0, own=0.5, busy=None, steal=None, total=None, switches=0)
    seen = disturbance(before, after)
    assert seen.others is None
    assert seen.steal is None


@linux
def test_counters_move_forward():
    first = counters()
    sum(range(2_000_000))
    second = counters()
    assert second.wall > first.wall
    assert second.own >= first.own
    assert second.busy is not None
    assert first.busy is not None
    assert second.busy >= first.busy


def test_waiting_for_idle_outlasts_a_thread_that_works():
    def outlasted() -> bool:
        thread = threading.Thread(target=work)
        thread.start()
        wait_for_idle()
        return not thread.is_alive()

    def work() -> None:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass

    assert any(outlasted() for _ in range(5)), "once a busy machine may keep the thread from working, which is idle"


def test_waiting_for_idle_ends_although_a_thread_never_stops():
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    wait_for_idle()
    assert thread.is_alive()
    stop.set()
    thread.join()


def test_the_software_of_a_machine_is_its_system_and_its_python_where_it_has_one():
    here = this_machine()
    assert here.software == f"{here.system}, Python {platform.python_version()}"
    assert replace(here, system="Android 14", python="").software == "Android 14"
