"""Family: one model in several formats: a folder with an artifact a format, and what was measured of them.

    out/digits-int8/family.json
    out/digits-int8/onnx/artifact.json  …
    out/digits-int8/tflite/artifact.json  …

`load` of such a folder opens the member that runs best on the machine at hand; `ranked` says in which order it tries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .artifact import FAMILY, MANIFEST, Artifact, describe, read_artifact
from .errors import ArtifactError
from .files import require_folder, write_text
from .machine import Machine

SCHEMA = 1


@dataclass(frozen=True)
class Member:
    """One format's artifact: the name of its folder, and the sha256 of the manifest in it.

    `bytes` is the model's size on disk, `p50_ms` its median latency, None where nothing was timed.
    """

    folder: str
    sha256: str
    bytes: int
    p50_ms: float | None = None


@dataclass(frozen=True)
class Measured:
    """Where the latencies are from; `threads=None` left the number to the engines."""

    device: str
    arch: str
    cpu: str
    cores: int
    threads: int | None


@dataclass(frozen=True)
class Family:
    """The members by format, in the order in which they were asked for; `measured` is None where none was timed.

    `parity` is what is known of how far the members' outputs lie apart, `report` the report of the run that made them;
    both are kept as they are found.
    """

    path: Path
    members: Mapping[str, Member]
    measured: Measured | None = None
    parity: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None

    def folder(self, form: str) -> Path:
        """The folder of the member in this format: an artifact like any other."""
        return self.path / self.members[form].folder


def is_family(path: str | Path) -> bool:
    """True for a folder with a `family.json` in it."""
    try:
        return (Path(path) / FAMILY).is_file()
    except OSError:  # no permission, a name that is too long: whoever reads it will say so
        return False


def members(path: Path) -> list[Path]:
    """The folders of a family's members, which belong together; of anything else the path itself.

    Raises ArtifactError where a member is missing or was exchanged.

    >>> members(Path("out/digits-int8"))
    [PosixPath('out/digits-int8/onnx'), PosixPath('out/digits-int8/tflite')]
    """
    if not is_family(path):
        return [path]
    family = read_family(path)
    check_family(family)
    return [family.folder(form) for form in family.members]


def read_family(path: str | Path) -> Family:
    """Read a folder's `family.json`. What lies in its members is not looked at here: see `check_family`.

    Raises ArtifactError where it is missing, damaged or written by a newer version.

    >>> list(read_family("out/digits-int8").members)
    ['onnx', 'tflite']
    """
    path = Path(path)
    written = require_folder(path) / FAMILY
    try:
        text = written.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{written} cannot be read ({error.strerror}); check the path") from error
    try:
        return _parse(path, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{written} is damaged ({error!r}); export the family again") from error


def _parse(path: Path, raw: dict[str, Any]) -> Family:
    if raw["schema"] != SCHEMA:
        raise ArtifactError(f"{path / FAMILY} has schema {raw['schema']}, this edgepress reads {SCHEMA}; upgrade it")
    found = {str(form): _member(member, path / FAMILY) for form, member in dict(raw["members"]).items()}
    if not found:
        raise ValueError("no members")
    measured, parity, report = raw["measured"], raw["parity"], raw.get("report")
    return Family(
        path,
        found,
        None if measured is None else _measured(measured),
        None if parity is None else dict(parity),
        None if report is None else dict(report),
    )


def _member(raw: dict[str, Any], written: Path) -> Member:
    folder, p50 = str(raw["folder"]), raw["p50_ms"]
    if Path(folder).name != folder or folder in ("", ".", ".."):  # a family must not reach outside its folder
        raise ArtifactError(f"{written} names the folder {folder!r}; expected plain names of folders")
    return Member(folder, str(raw["sha256"]), int(raw["bytes"]), None if p50 is None else float(p50))


def _measured(raw: dict[str, Any]) -> Measured:
    threads = raw["threads"]
    words = (str(raw[name]) for name in ("device", "arch", "cpu"))
    return Measured(*words, cores=int(raw["cores"]), threads=None if threads is None else int(threads))


def write_family(family: Family) -> None:
    """Write `family.json` into the family's folder; a reader sees the old one or the new, never a part."""
    raw = {"schema": SCHEMA} | asdict(family)
    del raw["path"]
    write_text(family.path / FAMILY, json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


def member_of(artifact: Artifact, p50_ms: float | None = None) -> Member:
    """What a family notes of an artifact that lies in its folder."""
    manifest = describe(artifact.path / MANIFEST)
    return Member(artifact.path.name, manifest.sha256, artifact.bytes, p50_ms)


def check_family(family: Family, forms: Sequence[str] = ()) -> None:
    """Raise ArtifactError where a member (of `forms`, else of all) is missing or is not the one that was put there.

    The manifest vouches for the member's files: see `artifact.check`.
    """
    for form in forms or family.members:
        folder = family.folder(form)
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{folder} is missing; copy the whole folder {family.path} again, or export it again")
        if describe(folder / MANIFEST).sha256 != family.members[form].sha256:
            raise ArtifactError(
                f"{folder} is not the member that {FAMILY} knows: one member was exchanged; "
                f"copy the whole folder {family.path} again, or export it again"
            )
        found = read_artifact(folder).format
        if found != form:
            raise ArtifactError(f"{folder} is in the format {found}, {FAMILY} says {form}; export the family again")


def ranked(family: Family, machine: Machine) -> tuple[tuple[str, ...], str]:
    """The formats in the order in which a machine tries them, and why: the fastest first, where any was timed.

    What was timed on another kind of machine (`cpu` and `arch`) is a hint, and is told as such. Where nothing was
    timed, the order is that in which they were asked for: every pass was judged on the first one.
    """
    times = {form: member.p50_ms for form, member in family.members.items()}
    timed = family.measured
    if timed is None or not any(times.values()):
        return tuple(times), "the first one, for nothing was timed"
    order = tuple(sorted(times, key=lambda form: times[form] or float("inf")))
    figures = ", ".join(f"{form} {times[form]:.3g} ms" for form in order if times[form])
    threads = {None: "the engines' threads", 1: "1 thread"}.get(timed.threads, f"{timed.threads} threads")
    kind = f"{timed.cpu}, {timed.arch}"
    if (timed.cpu, timed.arch) == (machine.cpu, machine.arch):
        return order, f"the fastest on this kind of machine ({figures}; {kind}, {threads})"
    return order, f"the fastest on another kind of machine, not timed on this one ({figures}; {kind}, {threads})"
