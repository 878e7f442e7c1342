"""Device: what a model is made for and measured on: a profile by name, or an address."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

from ..runtime.errors import UnknownName, UsageError
from ..runtime.machine import saturates, this_machine
from .links import LINKS

_PACKAGE = "edgepress.devices"
_ALIASES = {"local": "host"}
_HERE = ("local", "browser")  # links to this machine
# The activation type that the processor's int8 kernels are fast at. ONNX Runtime's int8 convolutions with int8
# activations were 5 to 9 times slower than with uint8 on x86-64 (ONNX Runtime 1.32, AVX512-VNNI).
_ACTIVATIONS = {"x86_64": "uint8", "amd64": "uint8", "aarch64": "int8", "arm64": "int8"}


@dataclass(frozen=True)
class Device:
    """A target. `link` is the address to reach it at, "" where there is none: then nothing can be timed there.

    `ram_mb` counts as makers of memory do (2**20). `threads` are those that a model is run with; None leaves the
    number to the engine. `activation` is the type of activation that its processor is fast at, `uint8` or `int8`.
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


def device_names() -> tuple[str, ...]:
    """The names of all profiles."""
    files = (resources.files(_PACKAGE) / "profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def find_device(name: str) -> Device:
    """The device of a profile's name; `local` is another name for `host`.

    Raises UnknownName for a name without a profile, and for an address (`ssh://...`) whose scheme has no link.

    >>> find_device("pi5").activation
    'int8'
    """
    scheme, mark, _ = name.partition("://")
    if mark and scheme not in LINKS:
        raise UnknownName("link", scheme, LINKS)
    name = _ALIASES.get(scheme, name)
    if name not in device_names():
        raise UnknownName("device", name, (*device_names(), *_ALIASES))
    text = (resources.files(_PACKAGE) / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return read_profile(name, text)


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
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Device(name=name, **settings)


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
