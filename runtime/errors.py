"""Everything that edgepress raises on purpose.

EdgepressError
├── UsageError          a setting, name or option that cannot be right
│   └── UnknownName     a name that is in no table; the known ones are listed
├── InputError          a file that was handed in cannot be used
│   ├── ModelError      ... the model
│   ├── DataError       ... the data: calibration, training, samples
│   └── ArtifactError   ... an artifact: missing, incomplete, damaged
├── PortError           a call with an input whose name, dtype or shape does not fit
├── EngineError         the engine could not open or run a file
├── TrainingError       a training that cannot go on
├── UnsupportedError    refused by name: what a pass, format or device cannot express
├── MissingExtra        a library that is not installed, with the line that installs it
└── DeviceError         a device or the link to it

Each message is one line: what was seen, what would be right, what to do. The command line prints it and exits with 2.
A budget that is missed is no error: it is a result, and the exit code is 1. `SteppedDown` is a warning: the model runs,
on another unit than the first that was asked for.
"""

from collections.abc import Iterable


class EdgepressError(Exception):
    """The root: `except EdgepressError` catches whatever edgepress raises on purpose."""


class UsageError(EdgepressError):
    """A setting, name or option that cannot be right."""


class UnknownName(UsageError):  # noqa: N818 - reads as what was seen
    """A name that is in no table.

    >>> raise UnknownName("recipe", "int9", ["int8", "int4"])
    Traceback (most recent call last):
    edgepress.runtime.errors.UnknownName: unknown recipe 'int9'; known: int4, int8
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known)) or 'none'}")


class InputError(EdgepressError):
    """A file that was handed in cannot be used."""


class ModelError(InputError):
    """The model cannot be read, or is not what it says it is."""


class DataError(InputError):
    """The calibration, training or sample data cannot be used."""


class ArtifactError(InputError):
    """An artifact is missing, incomplete or damaged."""


class PortError(EdgepressError):
    """A call with an input whose name, dtype or shape does not fit the model's ports."""


class EngineError(EdgepressError):
    """The engine could not open or run a file."""


class TrainingError(EdgepressError):
    """A training that cannot go on: its loss is no number, or its data has come to an end."""


class UnsupportedError(EdgepressError):
    """Refused by name: what a pass, a format or a device cannot express."""


class MissingExtra(EdgepressError):  # noqa: N818
    """A library that is not installed; `extra` is the one of pyproject.toml that brings it, none for the base install.

    >>> raise MissingExtra("torch", "compress")
    Traceback (most recent call last):
    edgepress.runtime.errors.MissingExtra: torch is not installed; it comes with: pip install 'edgepress[compress]'
    """

    def __init__(self, library: str, extra: str = "") -> None:
        what = f"'edgepress[{extra}]'" if extra else "edgepress"
        super().__init__(f"{library} is not installed; it comes with: pip install {what}")


class DeviceError(EdgepressError):
    """A device, or the link to it."""


class SteppedDown(UserWarning):
    """A unit that is not there, does not start or computes wrongly was left for the next one that was asked for."""
