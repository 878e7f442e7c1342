"""Device: what a model is made for and measured on: a profile by name, or an address."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Any

from ..runtime.errors import DeviceError, UnknownName, UsageError
from ..runtime.machine import Machine, saturates, this_machine
from ..runtime.program import answered
from . import adb
from .emulated import BOARDS, SCHEME
from .links import LINKS, connect

_PACKAGE = "edgepress.devices"
_ALIASES = {"local": "host"}
_ANSWER_S = 60.0
_HERE = ("local", "browser")  # links to this machine
# The activation type that the processor's int8 kernels are fast at. ONNX Runtime's int8 convolutions with int8
# activations were 5 to 9 times slower than with uint8 on x86-64 (ONNX Runtime 1.32, AVX512-VNNI).
_ACTIVATIONS = {"x86_64": "uint8", "amd64": "uint8", "aarch64": "int8", "arm64": "int8"}


@dataclass(frozen=True)
class Npu:
    """What a device's NPU takes: the `provider` that starts it, the types of weights and activations, its operators.

    `fixed` is set where it takes no free axis. The provider has conditions of its own on each operator: what is not in
    `ops` never runs there, what is in may.
    """

    provider: str
    fixed: bool
    weights: tuple[str, ...]
    activations: tuple[str, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """A target. `link` is the address to reach it at, "" where there is none: then nothing can be timed there.

    `ram_mb` counts as makers of memory do (2**20). `threads` are those that a model is run with; None leaves the
    number to the engine. `activation` is the type of activation that its processor is fast at, `uint8` or `int8`.
    `npu` is what its NPU takes, where it has one.
    `reduce_range` is set where int8 weights must keep to 7 bits: see `saturates`.
    `sources` say where the figures are from.
    """

    name: str
    cpu: str
    arch: str
    ram_mb: int | None
    threads: int | None
    formats: tuple[str, ...]
    units: tuple[str, ...]
    activation: str
    reduce_range: bool = False
    link: str = ""
    description: str = ""
    sources: tuple[str, ...] = ()
    npu: Npu | None = None

    @property
    def settings(self) -> list[str]:
        """Its threads and units, as the runtime's programs are given them."""
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        return [*threads, *(part for unit in self.units for part in ("--provider", unit))]

    @property
    def emulated(self) -> bool:
        """True where no board computes, but a program that stands in for one: nothing is timed there."""
        return self.link.startswith(f"{SCHEME}://")

    @property
    def replays(self) -> bool:
        """True where golden samples are replayed there: an Android device only times."""
        return not self.link.startswith(f"{adb.SCHEME}://")


def device_names() -> tuple[str, ...]:
    """The names of all profiles."""
    files = (resources.files(_PACKAGE) / "profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def find_device(name: str) -> Device:
    """The device of a profile's name, or of an address, which is asked what it is; `local` is another name for `host`.

    Raises UnknownName for a name without a profile, and for an address whose scheme has no link; DeviceError where the
    device cannot be reached.

    >>> find_device("pi5").activation
    'int8'
    >>> find_device("ssh://pi@raspberrypi.local").cpu
    'Raspberry Pi 5 Model B Rev 1.0'
    """
    check_name(name)
    if name in _ALIASES or "://" not in name:
        name = _ALIASES.get(name, name)
        text = (resources.files(_PACKAGE) / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
        return read_profile(name, text)
    scheme, _, rest = name.partition("://")
    return _emulated(name, rest) if scheme == SCHEME else _asked(name)


def check_name(name: str) -> None:
    """Raise UnknownName where this is no profile's name, and no address that a link is for. Nobody is contacted."""
    scheme, mark, rest = name.partition("://")
    if not mark and name not in (*device_names(), *_ALIASES):
        raise UnknownName("device", name, (*device_names(), *_ALIASES))
    if mark and (scheme not in LINKS or scheme == "local"):
        raise UnknownName("link", scheme, LINKS)
    if mark and scheme == SCHEME and rest not in BOARDS:
        raise UnknownName("emulated board", rest, BOARDS)


def unreached(name: str, address: str) -> Device:
    """What stands for a device that could not be reached: nothing is known of it."""
    return Device(name, "unknown", "unknown", None, None, (), (), "", link=address)


def _asked(address: str) -> Device:
    """The device at an address, by what it tells of itself."""
    link = connect(address)
    try:
        said = link.run(["-m", "edgepress.runtime.about"], _ANSWER_S)
    finally:
        link.close()
    try:
        told = json.loads(answered(said))
        machine, arch = told["machine"], told["machine"]["arch"]
        return Device(
            name=address.partition("://")[2].partition("?")[0].partition("/")[0],
            cpu=machine["cpu"],
            arch=arch,
            ram_mb=machine["ram_mb"],
            threads=None,
            formats=tuple(told["formats"]),
            units=("cpu",),
            activation=_ACTIVATIONS.get(arch.lower(), "uint8"),
            reduce_range=told["saturates"],
            link=address,
            description=Machine(**machine).software,
            sources=("the device itself: /proc, /sys",),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{address} did not tell what it is ({error!r}); set it up again") from error


def _emulated(address: str, board: str) -> Device:
    connect(address).close()  # what is not set up is told now, not after minutes of compressing
    name = f"{board} (emulated)"
    return replace(find_device(board), name=name, formats=("onnx",), threads=1, link=address)


def read_profile(name: str, text: str) -> Device:
    """A Device from the TOML text of a profile; what one of this machine does not say is filled in.

    Raises UsageError where the text is no TOML, or a key is unknown or missing.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the profile {name!r} is not TOML ({error}); see devices/profiles") from error
    if raw.get("link") in _HERE:
        raw = _this_machine() | raw
    known = {field.name for field in fields(Device)} - {"name"}
    _check_keys(name, raw, known)
    settings = _tuples(raw)
    if "npu" in settings:
        settings["npu"] = _npu(name, settings["npu"])
    return Device(name=name, **settings)


def _npu(name: str, raw: Any) -> Npu:
    known = [field.name for field in fields(Npu)]
    if not isinstance(raw, dict) or set(raw) != set(known):
        found = ", ".join(sorted(raw)) if isinstance(raw, dict) else repr(raw)
        raise UsageError(f"the profile {name!r} has an [npu] of {found}; expected {', '.join(known)}")
    return Npu(**_tuples(raw))


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _check_keys(name: str, raw: Mapping[str, Any], known: set[str]) -> None:
    for key in raw:
        if key not in known:
            raise UsageError(f"the profile {name!r} has the unknown key {key!r}; known: {', '.join(sorted(known))}")
    missing = {"cpu", "arch", "ram_mb", "threads", "formats", "units", "activation"} - set(raw)
    if missing:
        raise UsageError(f"the profile {name!r} lacks {', '.join(sorted(missing))}; see devices/profiles")


def _this_machine() -> dict[str, Any]:
    machine = this_machine()
    return {
        "cpu": machine.cpu,
        "arch": machine.arch,
        "ram_mb": machine.ram_mb,
        "threads": None,
        "activation": _ACTIVATIONS.get(machine.arch.lower(), "uint8"),
        "reduce_range": saturates(),
    }
