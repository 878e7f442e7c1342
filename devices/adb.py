"""adb: an Android device over the `adb` of this machine, as a link: put, run, close. No Python is needed there.

Files lie under `files/DIGEST/NAME` in a folder of edgepress's own: what is there is not sent again, and a file that
arrives gets its name when it is whole. In place of the runtime's bench run the engines' own tools, which the user
names: see `tool_bench`. Old devices drop exit codes, so that each script's is printed after what it says.
"""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..runtime.errors import DeviceError, UsageError
from ..runtime.machine import Machine
from . import tool_bench
from .payload import digest, files_of
from .process import Done, call
from .tool_bench import RESULTS, Tool
from .tools import TOOLS, beside, by_format, names

SCHEME = "adb"
FOLDER = "/data/local/tmp/edgepress"
_ANSWER_S, _PUSH_S, _END_S = 60.0, 600.0, 10.0
_GRACE_S = 30.0  # how much longer than the device we wait for its answer
_BUSY, _NOT_THERE = 75, 76
_CODE = "edgepress exit code "
_EXAMPLE = f"{SCHEME}://SERIAL?benchmark=path/to/benchmark_model"

# What adb says, or what Android says -> what it means, and what to do.
_OF_ADB = (
    ("unauthorized|still authorizing", "{serial} has not let this machine in; unlock its screen and accept the "
     "question about USB debugging"),
    ("no permissions", "this user may not open {serial}; install the udev rules: sudo apt-get install "
     "android-sdk-platform-tools-common"),
    ("device offline", "{serial} is offline; plug it in again, or: adb -s {serial} reconnect"),
    ("device '.*' not found|no devices|device not found", "there is no device {serial}; see: adb devices, and for one "
     "in the network: adb connect {serial}"),
)  # fmt: skip
_OF_ANDROID = (
    ("No space left on device|Disk quota exceeded", "no space is left on {serial} for {folder}; free some there"),
)
_OF_TOOL = (
    ("not executable|Exec format error", "{path} is not for the processor of {serial} ({abi}); take {tool} for Android "
     "on {abi}"),
    ('library "(?P<library>.+?)" not found', "{path} needs {library}; put that of the same build beside it"),
)  # fmt: skip

_FACTS = """
for name in ro.product.manufacturer ro.product.model ro.soc.model ro.product.cpu.abi ro.build.version.release; do
  echo "$name=$(getprop "$name")"
done
echo "ram=$(grep MemTotal: /proc/meminfo)"
echo "cores=$(grep -c ^processor /proc/cpuinfo)"
echo "vnni=$(grep -c _vnni /proc/cpuinfo)"
cd /sys/devices/system/cpu/cpu0/cpufreq 2>/dev/null
echo "governor=$(cat scaling_governor 2>/dev/null)"
echo "khz=$(cat scaling_cur_freq 2>/dev/null)"
echo "load=$(cat /proc/loadavg 2>/dev/null)"
"""

_HAS = '[ -d "files/$1" ] && touch "files/$1" && echo yes || echo no'
_DRAFT = """
find files -mindepth 1 -maxdepth 1 \\( -mtime +30 -o -name '.part-*' \\) -exec rm -rf {} + 2>/dev/null
mkdir -p "files/.part-$1"
"""
_WHOLE = 'mv "files/.part-$1" "files/$1"'

# The tool's number lies in `busy` as long as it runs: `timeout` ends it there, and we do where we are stopped. What it
# leaves in its file of results, if it has one, follows what it said.
_BENCH = f"""
if [ -e busy ] && kill -0 "$(cat busy)" 2>/dev/null; then exit {_BUSY}; fi
seconds=$1; shift; rm -f {RESULTS}
chmod 755 "$1" && timeout -k 5 "$seconds" sh -c 'echo $$ >busy; export LD_LIBRARY_PATH="${{0%/*}}"; exec "$0" "$@"' "$@"
code=$?; rm -f busy; echo; cat {RESULTS} 2>/dev/null; rm -f {RESULTS}; exit "$code"
"""
_END = '[ -e busy ] && kill -9 "$(cat busy)"; rm -f busy'

# Android's name of a processor's kind -> the kernel's.
_ARCHES = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "x86_64": "x86_64", "x86": "i686", "riscv64": "riscv64"}


@dataclass(frozen=True)
class Phone:
    """A device that adb reaches, and the files here of the tools that the address names, by the formats they run.

    `sent` holds what was brought in this connection: path there -> path here. `ready` holds the tools that were: format
    -> path there.
    """

    serial: str
    benchmarks: Mapping[str, Path]
    sent: dict[str, Path] = field(default_factory=dict)
    ready: dict[str, str] = field(default_factory=dict)

    def put(self, local: Path, *others: Path) -> str:
        """Send a file or folder, with others beside it, unless the device has them; returns its path there."""
        paths = [one.resolve() for one in (local, *others)]
        name = digest({name: path for one in paths for name, path in files_of(one).items()})
        if self._sh(_HAS, name).strip() != "yes":
            try:
                self._sh(_DRAFT, name)
                self._adb("push", *map(str, paths), f"{FOLDER}/files/.part-{name}/", timeout=_PUSH_S)
                self._sh(_WHOLE, name)
            except BaseException:
                self._quietly('rm -rf "files/.part-$1"', name)
                raise
        path = f"{FOLDER}/files/{name}/{paths[0].name}"
        self.sent[path] = paths[0]
        return path

    def run(self, arguments: Sequence[str], timeout: float) -> str:
        """Do what `about` and `bench` of the runtime do. Raises DeviceError for another program."""
        program = arguments[1] if arguments[:1] == ["-m"] else ""
        if program == "edgepress.runtime.about":
            told = {"machine": asdict(self.machine), "formats": list(self.tools), "saturates": self._saturates}
            return json.dumps(told | {"versions": {}})
        if program == "edgepress.runtime.bench":
            return tool_bench.main(arguments[2:], self, timeout)
        raise DeviceError(f"an Android device does not run {' '.join(arguments[:2])}; it runs: about, bench")

    def close(self) -> None:
        """Nothing to drop: each program has ended, and adb's own server is the user's."""

    @property
    def machine(self) -> Machine:
        """What the device tells of itself, at this moment. Raises DeviceError where it does not answer."""
        told = _facts(self._sh(_FACTS))
        abi, load, maker = told["ro.product.cpu.abi"], told["load"].split(), told["ro.product.manufacturer"]
        product = f"{maker} {told['ro.product.model']}".strip() or self.serial
        return Machine(
            arch=_ARCHES.get(abi, abi or "unknown"),
            cpu=told["ro.soc.model"] or product,
            cores=_number(told["cores"]) or 1,
            ram_mb=None if (kilobytes := _number(told["ram"])) is None else kilobytes // 1024,
            system=f"Android {told['ro.build.version.release']} on {product}",
            python="",
            governor=told["governor"] or None,
            frequency_mhz=None if (khz := _number(told["khz"])) is None else khz / 1000,
            temperature_c=None,
            load=float(load[0]) if load else None,
        )

    @property
    def tools(self) -> dict[str, Tool]:
        """Format -> the tool for it, of those that the address names."""
        return {form: TOOLS[form] for form in self.benchmarks}

    def call(self, form: str, arguments: Sequence[str], seconds: float) -> str:
        """Run a format's tool once, at most `seconds`; returns what it said on stdout and stderr, and its results.

        Raises DeviceError where it fails or its time is up; it runs no longer then.
        """
        path, tool = self.benchmarks[form], TOOLS[form]
        if form not in self.ready:
            self.ready[form] = self.put(path, *beside(form, path))
        script = shlex.join(["sh", "-c", _in_folder(_BENCH), "sh", f"{seconds:.0f}", self.ready[form], *arguments])
        begun = time.monotonic()
        try:
            code, said = self._script(script, seconds + _GRACE_S)
        except BaseException:  # Ctrl-C, a cable: where it is reached still, nothing goes on there
            self._quietly(_END)
            raise
        if code in (124, 137) and time.monotonic() - begun >= seconds:
            raise DeviceError(f"no answer from {self.serial} in {seconds:.0f} s; the program was ended there")
        if code == _BUSY:
            raise DeviceError(f"another run is using {self.serial}; wait until it has ended, two disturb each other")
        if code:
            told = f"{self.serial}: {tool.complaint(said) or f'exit code {code}, and nothing said'}"
            if 128 < code < 255:  # 255 is what a tool itself ends with, its -1
                seen = f"the benchmark was killed by signal {code - 128} on {self.serial}"
                told = f"{seen}; is the memory enough, and is it {tool} for this Android?"
            raise DeviceError(self._why(told, said, (*_OF_ANDROID, *_OF_TOOL), form))
        return said

    def clean(self) -> None:
        """Remove the folder on the device. Raises DeviceError where that fails."""
        code, said = self._script(f"rm -rf {FOLDER}", _ANSWER_S)
        if code:
            raise DeviceError(f"{FOLDER} cannot be removed on {self.serial} ({_last(said)})")

    @property
    def _saturates(self) -> bool:
        """As `runtime.machine.saturates`; phones are no x86, but Android's emulator is."""
        told = _facts(self._sh(_FACTS))
        return told["ro.product.cpu.abi"] == "x86_64" and not _number(told["vnni"])

    def _sh(self, script: str, *arguments: str, timeout: float = _ANSWER_S) -> str:
        """Run a script of sh in the device's folder; returns what it printed. Raises DeviceError where it fails."""
        code, said = self._script(shlex.join(["sh", "-c", _in_folder(script), "sh", *arguments]), timeout)
        if code == _NOT_THERE:
            raise DeviceError(f"{FOLDER} cannot be made on {self.serial} ({_last(said)}); is there space left?")
        if code:
            raise DeviceError(self._why(f"{self.serial}: {_last(said)} (exit code {code})", said, _OF_ANDROID))
        return said

    def _script(self, line: str, timeout: float) -> tuple[int, str]:
        """The exit code of a line of sh, and what it said. Raises DeviceError where the device does not answer."""
        said = self._adb("exec-out", f"({line}) </dev/null 2>&1; code=$?; echo; echo '{_CODE}'$code", timeout=timeout)
        text, mark, code = said.replace("\r\n", "\n").rpartition(_CODE)
        if not mark or not code.strip().isdigit():
            raise DeviceError(f"the link to {self.serial} was lost; is it plugged in? the same command goes again")
        return int(code), text.removesuffix("\n")

    def _adb(self, *arguments: str, timeout: float) -> str:
        try:
            done = call(["adb", "-s", self.serial, *arguments], timeout)
        except FileNotFoundError as error:
            raise DeviceError("there is no adb here; on Debian and Ubuntu: sudo apt-get install adb") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"no answer from {self.serial} in {timeout:.0f} s; unplug it and plug it in") from error
        if done.code:
            raise DeviceError(self._lost(done))
        return done.output

    def _lost(self, done: Done) -> str:
        said = f"{done.output}\n{done.errors}"
        lost = f"the link to {self.serial} was lost ({_last(said)}); is it plugged in? the same command goes again"
        return self._why(lost, said, (*_OF_ADB, *_OF_ANDROID))

    def _why(self, otherwise: str, said: str, reasons: Sequence[tuple[str, str]], form: str = "") -> str:
        """One line for what is seen, with the remedy where it is a known one. `form` is the format of a tool's run."""
        known = {"serial": self.serial, "folder": FOLDER, "path": self.benchmarks.get(form), "tool": TOOLS.get(form)}
        for pattern, meaning in reasons:
            if found := re.search(pattern, said):
                abi = self._abi() if "{abi}" in meaning else ""
                return meaning.format(**known, **found.groupdict(), abi=abi)
        return otherwise

    def _abi(self) -> str:
        with suppress(DeviceError):
            return self._sh("getprop ro.product.cpu.abi").strip()
        return "its kind"

    def _quietly(self, script: str, *arguments: str) -> None:
        with suppress(DeviceError):
            self._sh(script, *arguments, timeout=_END_S)


def open_adb(address: str) -> Phone:
    """Open `adb://SERIAL?benchmark=PATH`. Raises UsageError for another address, or without a benchmark's file."""
    phone = read_address(address)
    if not phone.benchmarks:
        raise UsageError(f"{address} names no benchmark; name {names()} for Android: {_EXAMPLE}")
    for form, path in phone.benchmarks.items():
        if not path.is_file():
            raise UsageError(f"{path} is no file; expected {TOOLS[form]} for Android")
    return phone


def read_address(address: str) -> Phone:
    """Take `adb://SERIAL[?benchmark=PATH[&benchmark=PATH]]` apart; nobody is contacted.

    Raises UsageError where it is something else, or names what is no tool, or two for one format.

    >>> read_address("adb://0A041FDD4002XB?benchmark=tools/benchmark_model").benchmarks
    {'tflite': PosixPath('tools/benchmark_model')}
    """
    found = re.fullmatch(rf"{SCHEME}://(\w[\w.:-]*)(?:\?benchmark=(.+))?", address)
    if found is None:
        raise UsageError(f"{address!r} is no address of an Android device; expected {_EXAMPLE}; see: adb devices")
    paths = found[2].split("&benchmark=") if found[2] else []
    return Phone(found[1], by_format([Path(path).expanduser() for path in paths]))


def _in_folder(script: str) -> str:
    return f"mkdir -p {FOLDER} && cd {FOLDER} || exit {_NOT_THERE}\n{script}"


def _facts(said: str) -> dict[str, str]:
    names = re.findall(r'"(\w+)=\$', _FACTS) + re.findall(r"ro\.[\w.]+", _FACTS)
    told = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {name: told.get(name, "").strip() for name in names}


def _number(text: str) -> int | None:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else None


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(_CODE)]
    return lines[-1] if lines else "nothing said"
