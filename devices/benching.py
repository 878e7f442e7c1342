"""Bench on a device: the bench program in fresh processes there, as often as somebody asks, over one link."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..runtime.artifact import Artifact
from ..runtime.errors import DeviceError
from ..runtime.program import answered
from ..runtime.timing import Timing, from_json
from .device import Device
from .links import connect

TIMEOUT_S = 600.0  # beside what a run is asked to last

# bench(artifact, "--threads", "2", seconds=0) -> its Timing, from a process of its own
Bench = Callable[..., Timing]


@contextmanager
def benching(artifacts: Sequence[Artifact], device: Device, inputs: Path | None = None) -> Iterator[Bench]:
    """Bring artifacts to a device; gives `bench(artifact, *arguments, seconds=...)`, whose arguments win over defaults.

    `seconds` is how long the run is asked to last. Raises DeviceError where the device has no address, is
    emulated, or fails.

    >>> with benching([artifact], find_device("host")) as bench:
    ...     bench(artifact, "--runs", "10").p50
    0.148
    """
    if not device.link:
        raise DeviceError(f"nothing can be timed on {device.name}: its profile has no address; name another with --on")
    if device.emulated:
        raise DeviceError(f"{device.name} is emulated, whose speed says nothing; name a real device with --on")
    link = connect(device.link)
    try:
        paths = {artifact.path: link.put(artifact.path) for artifact in artifacts}
        defaults = [*device.settings, *([] if inputs is None else ["--inputs", link.put(inputs)])]

        def bench(artifact: Artifact, *arguments: str, seconds: float = 0.0) -> Timing:
            program = ["-m", "edgepress.runtime.bench", paths[artifact.path], *defaults, *arguments]
            timings = from_json(answered(link.run(program, TIMEOUT_S + seconds)))
            if len(timings) != 1:
                raise DeviceError(f"the bench gave {len(timings)} timings for 1 artifact; upgrade it on the device")
            return timings[0]

        yield bench
    finally:
        link.close()
