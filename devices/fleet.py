"""Fleet: several devices at once. Each is measured by its own; one that fails costs its own report, with the reason."""

import threading
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.errors import DeviceError, EdgepressError, UsageError
from ..runtime.session import LoadedModel
from .device import Device, check_name, find_device, unreached
from .measure import Progress, Score
from .process import end_all
from .report import Report

Measure = Callable[[Device, Progress], Report]

# These compute on this machine: one after the other, when the others' files are sent.
_HERE = ("host", "local", "emu")


@dataclass(frozen=True)
class Member:
    """One device of a fleet: its name there, a profile's name or an address, and the threads to run models with."""

    name: str
    address: str
    threads: int | None = None


def is_fleet(on: str) -> bool:
    """True where a command's DEVICE names several: a list with commas, or a .toml file."""
    return "," in on or on.endswith(".toml")


def read_fleet(on: str) -> tuple[Member, ...]:
    """The devices of `a,b,c`, or of a TOML file with a table for each. Nobody is contacted.

    Raises UsageError where a device stands there twice, or the file is not as it should be; UnknownName for a name
    that is neither a profile's nor an address.

    >>> [member.name for member in read_fleet("ssh://pi@10.0.0.7,local")]
    ['pi@10.0.0.7', 'local']
    """
    if on.endswith(".toml"):
        members = _read_file(Path(on))
    else:
        members = tuple(Member(_short(name), name) for name in (part.strip() for part in on.split(",")) if name)
    for member in members:
        check_name(member.address)
    for what in ("name", "address"):
        seen = [getattr(member, what) for member in members]
        if twice := next((one for one in seen if seen.count(one) > 1), None):
            raise UsageError(f"{twice} stands twice in {on!r}; name each device once")
    if not members:
        raise UsageError(f"{on!r} names no device; see: edgepress devices")
    return members


def over_fleet(members: Sequence[Member], measure: Measure, tell: Progress) -> tuple[Report, ...]:
    """A report for each device, in their order: what `measure` makes of it, or the reason why it failed.

    Devices elsewhere are measured at the same time, in threads; those that compute on this machine in turn after them.
    Ctrl-C ends all that still runs.
    """
    stopped = threading.Event()

    def one(member: Member) -> Report:
        def progress(text: str) -> None:
            if stopped.is_set():
                raise DeviceError("interrupted")
            tell(f"{member.name}: {text}")

        progress("connecting")
        try:
            device = find_device(member.address)
            threads = device.threads if member.threads is None else member.threads
            return measure(replace(device, name=member.name, threads=threads), progress)
        except EdgepressError as error:
            tell(f"{member.name}: failed")
            device = unreached(member.name, member.address)
            return Report(f"not measured on {member.name}", device, (), failure=str(error))

    elsewhere = [member for member in members if not _computes_here(member)]
    found: dict[str, Report] = {}
    with ThreadPoolExecutor(max(len(elsewhere), 1)) as pool:
        try:
            running: Mapping[str, Future[Report]] = {member.name: pool.submit(one, member) for member in elsewhere}
            found |= {name: future.result() for name, future in running.items()}
            found |= {member.name: one(member) for member in members if _computes_here(member)}
        except BaseException:
            stopped.set()
            end_all()
            raise
    return tuple(found[member.name] for member in members)


def once(score: Score | None) -> Score | None:
    """The same score, taken once for each artifact however many devices ask."""
    if score is None:
        return None
    known: dict[Path, Mapping[str, float]] = {}
    lock = threading.Lock()

    def judged(model: LoadedModel) -> Mapping[str, float]:
        with lock:
            if model.artifact.path not in known:
                known[model.artifact.path] = score(model)
            return known[model.artifact.path]

    return judged


def _computes_here(member: Member) -> bool:
    return member.address.partition("://")[0] in _HERE


def _short(address: str) -> str:
    """`pi@host` of `ssh://pi@host`; an emulated board and a profile keep their names."""
    scheme, mark, rest = address.partition("://")
    return rest.partition("?")[0].rstrip("/") if mark and scheme not in _HERE else address


def _read_file(path: Path) -> tuple[Member, ...]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a fleet ({error}); expected a table for each device") from error
    return tuple(_member(path, name, table) for name, table in raw.items())


def _member(path: Path, name: str, table: object) -> Member:
    if not isinstance(table, dict) or not isinstance(table.get("address"), str):
        raise UsageError(f'{path}: {name} needs an address, as in: [{name}] address = "ssh://pi@10.0.0.7"')
    if unknown := sorted(set(table) - {"address", "threads", "benchmark"}):
        raise UsageError(f"{path}: {name} has the unknown key {unknown[0]!r}; known: address, benchmark, threads")
    threads = table.get("threads")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UsageError(f"{path}: {name} has threads = {threads!r}; expected a whole number from 1 on")
    return Member(name, table["address"] + _benchmark(path, name, table), threads)


def _benchmark(path: Path, name: str, table: Mapping[str, object]) -> str:
    """What `benchmark`, a path beside the file or several, adds to the address of an Android device."""
    benchmark = table.get("benchmark")
    if benchmark is None:
        return ""
    files = benchmark if isinstance(benchmark, list) else [benchmark]
    usable = bool(files) and all(isinstance(file, str) for file in files)
    if not usable or not str(table["address"]).startswith("adb://"):
        raise UsageError(f"{path}: {name} has benchmark = {benchmark!r}; expected a file, for an address adb://SERIAL")
    return "?" + "&".join(f"benchmark={path.parent / str(file)}" for file in files)
