"""A family is read as it was written, its members belong together, and `load` opens the one that runs best here."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.compress.source import read_source
from edgepress.export.formats import export, export_family
from edgepress.runtime import Family, load, read_family
from edgepress.runtime.artifact import describe, read_artifact, write_manifest
from edgepress.runtime.errors import ArtifactError, EngineError, UnknownName, UsageError
from edgepress.runtime.family import Measured, check_family, is_family, member_of, members, ranked, write_family
from edgepress.runtime.golden import Case, read_golden, write_golden
from edgepress.runtime.machine import this_machine

HERE = this_machine()
PI = Measured("pi5", "aarch64", "Raspberry Pi 5 Model B", 4, 1)


@pytest.fixture(scope="module")
def made(perceptron_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron as ONNX and as TFLite; to be copied, not changed."""
    out = tmp_path_factory.mktemp("made") / "fam"
    export_family(read_source(str(perceptron_task)).model, ("onnx", "tflite"), out)
    return out


@pytest.fixture
def family(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`."""
    return Path(shutil.copytree(made, tmp_path / "fam"))


def timed(path: Path, where: Measured, **p50_ms: float) -> Family:
    """Note latencies in a family's folder, as `compress` does."""
    found = read_family(path)
    members = {form: replace(member, p50_ms=p50_ms[form]) for form, member in found.members.items()}
    changed = replace(found, members=members, measured=where)
    write_family(changed)
    return changed


def here(threads: int | None = 1) -> Measured:
    return Measured("host", HERE.arch, HERE.cpu, HERE.cores, threads)


def spoil(path: Path, form: str) -> None:
    """Make a member a file that computes something else than it did, its hashes being right."""
    artifact = read_artifact(path / form)
    golden = artifact.path / "golden.npz"
    write_golden(golden, [Case(case.inputs, {"y": case.outputs["y"] + 1}) for case in read_golden(golden)])
    files = tuple(describe(golden, "golden") if file.role == "golden" else file for file in artifact.files)
    write_manifest(replace(artifact, files=files))
    family = read_family(path)
    note = member_of(read_artifact(path / form), family.members[form].p50_ms)
    write_family(replace(family, members={**family.members, form: note}))


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    raw = json.loads((path / "family.json").read_text(encoding="utf-8"))
    change(raw)
    (path / "family.json").write_text(json.dumps(raw), encoding="utf-8")


def test_a_family_comes_back_as_it_was_written(family: Path):
    written = replace(timed(family, PI, onnx=2.0, tflite=1.5), parity={"cosine": {"tflite": 0.999}})
    write_family(written)
    assert read_family(family) == written
    assert read_family(family).folder("tflite") == family / "tflite"
    assert sorted(path.name for path in family.iterdir()) == ["family.json", "onnx", "tflite"]


def test_each_member_is_an_artifact_like_any_other(family: Path):
    x = np.ones((3, 64), np.float32)
    onnx, tflite = (load(path) for path in members(family))
    assert (onnx.artifact.format, tflite.artifact.format) == ("onnx", "tflite")
    assert np.allclose(onnx(input=x)["y"], tflite(input=x)["y"], atol=1e-5)
    assert onnx.why == tflite.why == ""


def test_a_member_is_named_with_its_family(family: Path):
    assert [read_artifact(path).name for path in members(family)] == ["fam/onnx", "fam/tflite"]


def test_what_is_no_family_stands_for_itself(family: Path, linear: Path):
    for path in (family / "onnx", linear, Path("nowhere"), Path("x" * 5000)):
        assert not is_family(path)
        assert members(path) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema=2), r"family\.json has schema 2, this edgepress reads 1; upgrade it"),
        (lambda raw: raw.pop("members"), r"family\.json is damaged \(KeyError\('members'\)\); export the family again"),
        (lambda raw: raw.update(members={}), "is damaged .*no members"),
        (lambda raw: raw.update(members=[1]), "is damaged"),
        (lambda raw: raw.update(parity=3), "is damaged"),
        (lambda raw: raw.update(measured={"device": "host"}), "is damaged"),
        (lambda raw: raw["members"]["onnx"].pop("sha256"), "is damaged"),
        (lambda raw: raw["members"]["onnx"].update(bytes="many"), "is damaged"),
        (
            lambda raw: raw["members"]["onnx"].update(folder="../fam/onnx"),
            r"names the folder '\.\./fam/onnx'; expected",
        ),
        (lambda raw: raw["members"]["onnx"].update(folder=".."), r"names the folder '\.\.'; expected plain names"),
        (lambda raw: raw["members"]["onnx"].update(folder="/etc"), "names the folder '/etc'; expected plain names"),
    ],
)
def test_a_damaged_or_newer_family_is_refused_in_one_line(family: Path, change, message: str):
    rewrite(family, change)
    for read in (read_family, load, members):
        with pytest.raises(ArtifactError, match=message) as error:
            read(family)
        assert "\n" not in str(error.value)


def test_text_that_is_no_json_and_folders_without_it_are_refused(family: Path):
    (family / "family.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"family\.json is damaged \(JSONDecodeError"):
        load(family)
    with pytest.raises(ArtifactError, match=r"onnx/family\.json cannot be read \(No such file or directory\)"):
        read_family(family / "onnx")
    with pytest.raises(ArtifactError, match="nowhere does not exist; check the path"):
        read_family("nowhere")


def test_a_member_that_is_missing_is_named_and_the_other_can_be_asked_for(family: Path):
    shutil.rmtree(family / "tflite")
    for open_ in (load, members):
        with pytest.raises(ArtifactError, match=r"fam/tflite is missing; copy the whole folder .*fam again"):
            open_(family)
    assert load(family, format="onnx").artifact.format == "onnx"


def test_a_member_of_another_family_is_told(family: Path, artifact: Path):
    shutil.rmtree(family / "onnx")
    shutil.copytree(artifact, family / "onnx")
    for open_ in (load, members, lambda path: load(path, format="onnx")):
        with pytest.raises(ArtifactError, match=r"fam/onnx is not the member that .* one member was exchanged; copy"):
            open_(family)
    assert load(family, format="tflite").artifact.format == "tflite"


def test_two_members_that_have_changed_places_are_told(family: Path):
    def swap(raw: dict) -> None:
        raw["members"] = {"onnx": raw["members"]["tflite"], "tflite": raw["members"]["onnx"]}

    rewrite(family, swap)
    with pytest.raises(ArtifactError, match=r"fam/tflite is in the format tflite, family\.json says onnx"):
        check_family(read_family(family))


def test_a_changed_file_of_a_member_is_told_as_in_any_artifact(family: Path):
    with (family / "onnx" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"onnx/model\.onnx has 71012 bytes, the manifest says 71011"):
        load(family)


@pytest.mark.parametrize(
    ("times", "best"), [({"onnx": 1.0, "tflite": 0.5}, "tflite"), ({"onnx": 1, "tflite": 2}, "onnx")]
)
def test_the_fastest_on_this_kind_of_machine_is_opened(family: Path, times, best: str):
    timed(family, here(), **times)
    model = load(family)
    assert model.artifact.format == best
    assert model.why.startswith(f"{best}: the fastest on this kind of machine ({best} ")
    assert model.why.endswith(f"{HERE.cpu}, {HERE.arch}, 1 thread)")


def test_what_was_timed_elsewhere_is_a_hint_and_told_as_such(family: Path):
    found = timed(family, PI, onnx=2.0, tflite=1.5)
    assert ranked(found, HERE) == (
        ("tflite", "onnx"),
        "the fastest on another kind of machine, not timed on this one (tflite 1.5 ms, onnx 2 ms; "
        "Raspberry Pi 5 Model B, aarch64, 1 thread)",
    )
    pi = replace(HERE, cpu=PI.cpu, arch=PI.arch)
    assert ranked(found, pi)[1].startswith("the fastest on this kind of machine")
    assert ranked(replace(found, measured=here(None)), HERE)[1].endswith("the engines' threads)")
    assert load(family).artifact.format == "tflite"


def test_where_nothing_was_timed_the_first_one_asked_for_is_opened(family: Path):
    model = load(family)
    assert (model.artifact.format, model.why) == ("onnx", "onnx: the first one, for nothing was timed")


def test_a_format_that_is_named_is_opened_and_another_is_answered_with_those_there_are(family: Path, linear: Path):
    model = load(family, format="tflite")
    assert (model.artifact.format, model.why) == ("tflite", "")
    with pytest.raises(UnknownName, match="unknown format 'gguf'; known: onnx, tflite"):
        load(family, format="gguf")
    assert load(linear, format="onnx").why == ""
    with pytest.raises(UsageError, match=r"linear\.onnx is in the format onnx, not tflite, and is no family; leave"):
        load(linear, format="tflite")


@pytest.mark.parametrize(("wrong", "right"), [("onnx", "tflite"), ("tflite", "onnx")])
def test_a_member_that_computes_wrongly_is_left_out_and_told(family: Path, wrong: str, right: str):
    timed(family, here(), **{wrong: 1.0, right: 2.0})
    spoil(family, wrong)
    model = load(family)
    assert model.artifact.format == right
    assert model.why.startswith(f"{right}: the next one; {wrong} does not run here: ")
    assert "computes wrongly here: its golden samples come out" in model.why
    assert load(family, verify=False).artifact.format == wrong


def test_where_no_member_runs_each_reason_is_said_in_one_line(family: Path):
    spoil(family, "onnx")
    spoil(family, "tflite")
    with pytest.raises(EngineError, match=r"no member of .*fam runs here; onnx does not .*; tflite does not") as error:
        load(family)
    assert "\n" not in str(error.value)


def test_a_provider_that_one_engine_has_not_leaves_the_other(family: Path):
    with pytest.raises(EngineError, match=r"onnx does not run here: unknown execution provider 'tpu'; .* tflite does"):
        load(family, providers=["tpu"])
    with pytest.raises(UsageError, match="threads is 0"):
        load(family, threads=0)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("onnxruntime", "tflite tflite: the next one; onnx does not run here: onnxruntime is not installed; it comes"),
        ("ai_edge_litert", "onnx onnx: the first one, for nothing was timed"),
        ("onnxruntime ai_edge_litert tflite_runtime", "no member of"),
    ],
)
def test_without_an_engine_the_next_member_runs_and_torch_is_never_needed(made: Path, missing: str, said: str):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r}))\n"
        "from edgepress.runtime import EdgepressError, load\n"
        f"try: model = load({str(made)!r}); print(model.artifact.format, model.why)\n"
        "except EdgepressError as error: print(error)\n"
        "assert not {'torch', 'onnx', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(said)
    if missing.count(" "):
        assert "onnxruntime is not installed" in done.stdout
        assert "ai-edge-litert is not installed" in done.stdout


def test_a_family_is_exported_whole_or_not_at_all(perceptron_task: Path, tmp_path: Path):
    model = read_source(str(perceptron_task)).model
    told: list[str] = []
    with pytest.raises(UnknownName, match="unknown format 'gguf2'"):
        export_family(model, ("onnx", "gguf2"), tmp_path / "fam", tell=told.append)
    assert told == ["exporting to onnx", "exporting to gguf2"]
    assert list(tmp_path.iterdir()) == []


def test_a_family_takes_the_place_of_an_artifact_and_an_artifact_that_of_a_family(perceptron_task: Path, family: Path):
    model = read_source(str(perceptron_task)).model
    with pytest.raises(UsageError, match="fam exists already; name another place, or replace it with --force"):
        export(model, "onnx", family)
    export(model, "onnx", family, force=True)
    assert not is_family(family)
    export_family(model, ("onnx",), family, force=True)
    assert [path.name for path in members(family)] == ["onnx"]
