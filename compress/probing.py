"""Probing: the kernels are written here, run on a device, and its probe comes back."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ..devices.device import Device
from ..devices.links import connect
from ..export.kernels import write_kernels
from ..runtime.errors import DataError, DeviceError, UsageError
from ..runtime.probe import SECONDS, Probe, from_json

TIMEOUT_S = 600.0


def probe_on(device: Device, *, seconds: float = SECONDS, tell: Callable[[str], None] = lambda text: None) -> Probe:
    """The probe of a device with its own count of threads. Raises DeviceError where it has no address, or fails.

    >>> probe_on(find_device("ssh://pi@raspberrypi.local")).machine.cpu
    'Raspberry Pi 5 Model B Rev 1.0'
    """
    if not device.link:
        raise DeviceError(
            f"{device.name} has no address, so it cannot be probed; name one as ssh://pi@raspberrypi.local"
        )
    if device.emulated:
        raise DeviceError(f"{device.name} is emulated, whose speed says nothing; probe a real device")
    with TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels"
        write_kernels(kernels, device.activation)
        link = connect(device.link)
        try:
            tell(f"sending kernels to {device.name}")
            threads = [] if device.threads is None else ["--threads", str(device.threads)]
            program = ["-m", "edgepress.runtime.probe", link.put(kernels), "--seconds", str(seconds), *threads]
            tell(f"probing {device.name} for {seconds:.0f} s")
            return from_json(link.run(program, TIMEOUT_S + seconds))
        finally:
            link.close()


def refuse_foreign(path: Path) -> None:
    """Raise UsageError where something lies at `path` that is no probe, and would be lost."""
    if not path.exists():
        return
    try:
        from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise UsageError(f"{path} is no probe of edgepress and would be lost; name another file") from error
