"""Machine: what the system tells about itself, and what disturbed a measurement. Null where it does not tell.

Sources: proc(5) for /proc/stat, /proc/self/stat and VmHWM; the kernel's cpufreq and thermal sysfs documents.
"""

import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")
_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Machine:
    """Where a figure was taken.

    `cores` are those that this process may use, `ram_mb` counts as makers of memory do (2**20), `frequency_mhz` and
    `governor` are the first core's, `load` is the 1-minute load average.
    """

    arch: str
    cpu: str
    cores: int
    ram_mb: int | None
    system: str
    python: str
    governor: str | None
    frequency_mhz: float | None
    temperature_c: float | None
    load: float | None

    @property
    def software(self) -> str:
        """The system, and the Python where there is one."""
        return f"{self.system}, Python {self.python}" if self.python else self.system


@dataclass(frozen=True)
class Doubt:
    """A reason to read a number with care: a short code for programs, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True)
class Disturbance:
    """What happened beside a measurement of `seconds`.

    `steal` is the share of processor time that the hypervisor gave to others, `others` the number of cores that other
    programs kept busy, `switches` how often the system took a core from this process against its will.
    """

    seconds: float
    steal: float | None
    others: float | None
    switches: int


@dataclass(frozen=True)
class Counters:
    """The system's counters at one moment: seconds since some start, and involuntary context switches."""

    wall: float
    own: float
    busy: float | None
    steal: float | None
    total: float | None
    switches: int


def this_machine() -> Machine:
    """Describe the machine that this process runs on.

    >>> this_machine().arch
    'x86_64'
    """
    return Machine(
        arch=platform.machine(),
        cpu=_cpu(),
        cores=_cores(),
        ram_mb=_ram_mb(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        governor=_text(_CPUFREQ / "scaling_governor"),
        frequency_mhz=_scaled(_CPUFREQ / "scaling_cur_freq", 1e-3),
        temperature_c=_scaled(_THERMAL, 1e-3),
        load=_load(),
    )


def saturates() -> bool:
    """True where int8 products lose their top: x86-64 without VNNI adds u8·s8 in pairs to 16 bits (VPMADDUBSW).

    Weights of 7 bits cannot reach the limit: 2·255·63 < 2^15. There MiniLM's cosine to float32 was .9962 with 8 bits
    and .9969 with 7; with exact sums it is .9984 with 8 (ONNX Runtime 1.32, AVX2).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return "_vnni" not in (_line("/proc/cpuinfo", "flags") or "")


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes; None where the system does not tell.

    On Linux VmHWM of /proc/self/status: `ru_maxrss` starts with the parent's size there, and reported 833 MB for 13.5.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
    line = _line("/proc/self/status", "VmHWM:")
    return int(line.split()[0]) * 1024 if line else None


def process_age() -> float | None:
    """Seconds since this process was started, in steps of a clock tick (10 ms); None where the system does not tell."""
    stat = _text(Path("/proc/self/stat"))
    if stat is None or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    started = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22; the name may hold spaces
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return max(age, 0.0)


def wait_for_idle() -> None:
    """Wait until no thread of this process works any more, at most a second.

    Engines keep their threads spinning for a while after a call, and the next engine shares the cores with them: a
    model of 3.1 ms took 7.1 ms in the first 50 ms after another's turn (ONNX Runtime 1.32, 2 threads on 2 cores).
    """
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(0.005)
        if time.process_time() - used < 0.001:
            return


def counters() -> Counters:
    """Read the counters that `disturbance` compares."""
    usage, own = resource.getrusage(resource.RUSAGE_SELF), os.times()
    line = _line("/proc/stat", "cpu ")
    busy = steal = total = None
    if line:
        user, nice, system, idle, wait, irq, softirq, stolen = (
            int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[:8]
        )
        busy, steal = user + nice + system + irq + softirq, stolen
        total = busy + steal + idle + wait
    return Counters(time.perf_counter(), own.user + own.system, busy, steal, total, usage.ru_nivcsw)


def disturbance(before: Counters, after: Counters) -> Disturbance:
    """What happened between two readings."""
    seconds = max(after.wall - before.wall, 1e-9)
    steal = others = None
    if after.busy is not None and before.busy is not None:
        others = max((after.busy - before.busy - (after.own - before.own)) / seconds, 0.0)
    if after.steal is not None and before.steal is not None and after.total is not None and before.total is not None:
        steal = (after.steal - before.steal) / max(after.total - before.total, 1e-9)
    return Disturbance(seconds, steal, others, after.switches - before.switches)


def _cpu() -> str:
    """The processor's name; ARM kernels give none, so the board's name stands in (`Raspberry Pi 5 Model B`)."""
    found = _line("/proc/cpuinfo", "model name") or _text(_MODEL) or platform.processor() or platform.machine()
    return found.lstrip("\t :").strip("\x00 \n")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Android's C library has it from API 29 on, and Termux is built for 24
        return None


def _ram_mb() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        return None


def _line(path: str, start: str) -> str | None:
    """What follows `start` in the first line that begins with it."""
    text = _text(Path(path)) or ""
    return next((line[len(start) :].strip() for line in text.splitlines() if line.startswith(start)), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _scaled(path: Path, factor: float) -> float | None:
    text = _text(path)
    return int(text) * factor if text and text.isdigit() else None
