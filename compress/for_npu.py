"""An artifact as a device's NPU wants it: shapes fixed, constants folded, and what it does not take told by name.

    out/digits-int8, image float32[batch, 1, 32, 32]  ->  out/digits-int8-npu, image float32[1, 1, 32, 32]

What is written is an artifact of its own, beside the one that it was made from.
"""

from pathlib import Path

from ..devices.device import Device
from ..export.fixed import fix
from ..export.unsuited import unsuited
from ..runtime.artifact import Artifact, read_artifact
from ..runtime.errors import UsageError


def prepare(
    path: Path, device: Device, out: Path, *, length: int | None = None, force: bool = False
) -> tuple[Artifact, tuple[str, ...]]:
    """Write the artifact at `path` as `out`, for the NPU that `device` has, and say what will not run there, in lines.

    `length` and what is raised are those of `fix`.

    >>> prepare(Path("out/digits-int8"), find_device("sm8650"), Path("out/digits-npu"))[1]
    ()
    """
    npu = device.npu
    assert npu is not None, f"{device.name} has no NPU"
    fixed = fix(read_artifact(path), out, length=length, force=force)
    lines = unsuited(
        fixed.model, ops=npu.ops, weights=npu.weights, activations=npu.activations, provider=npu.provider,
        device=device.name,
    )  # fmt: skip
    return fixed, lines


def read_length(text: str) -> int | None:
    """The one length of `--lengths`, None for no text. Raises UsageError for several, or for what is no number.

    >>> read_length("128")
    128
    """
    if not text:
        return None
    if not text.strip().isdecimal() or not int(text):
        raise UsageError(f"--lengths {text}: for an NPU every axis has one size; expected one number from 1 on, as 128")
    return int(text)


def in_words(fixed: Artifact) -> str:
    """What was written: the folder, its size, its ports, what was folded.

    >>> in_words(fixed)
    'written: out/digits-npu (92,153 bytes of model), image float32[1, 1, 32, 32]; free axes have one size each'
    """
    ports = ", ".join(map(str, fixed.inputs))
    step = fixed.history[-1] if fixed.history else None
    done = f"; {step.note}" if step is not None and step.name == "fix" else ""
    return f"written: {fixed.path} ({fixed.bytes:,} bytes of model), {ports}{done}"
