"""A manifest is read as it was written, or refused in one line that names it."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime import load
from edgepress.runtime.artifact import (
    MANIFEST,
    Artifact,
    File,
    Port,
    Step,
    check,
    describe,
    known_format,
    known_formats,
    read_artifact,
    write_manifest,
)
from edgepress.runtime.errors import ArtifactError, UnknownName, UsageError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | TEXT
JSON = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(TEXT, LEAF, max_size=3)
SHAPE = st.lists(st.integers(0, 9) | TEXT, max_size=4).map(tuple)
PORTS = st.lists(st.builds(Port, TEXT, st.just("float32"), SHAPE), max_size=3).map(tuple)
STEPS = st.lists(st.builds(Step, TEXT, st.dictionaries(TEXT, JSON, max_size=3), TEXT), max_size=3).map(tuple)


@given(inputs=PORTS, outputs=PORTS, history=STEPS, words=TEXT)
def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path, inputs, outputs, history, words: str):
    written = Artifact(
        path=tmp_path,
        format="onnx",
        files=(File("model.onnx", 7, "ab" * 32), File("labels é.json", 0, "cd" * 32, "asset")),
        inputs=inputs,
        outputs=outputs,
        history=history,
        tools={"torch": words},
        source={words: "x"},
        tolerance=0.125,
    )
    write_manifest(written)
    assert read_artifact(tmp_path) == written


def test_an_artifact_knows_its_files(artifact: Path):
    read = read_artifact(artifact)
    assert read.name == "linear-fp32"
    assert read.model == artifact / "model.onnx"
    assert read.bytes == (artifact / "model.onnx").stat().st_size
    assert read.asset("labels.json") == artifact / "labels.json"
    assert read.asset("tokenizer.json") is None
    assert str(read.inputs[0]) == "x float32[batch, 3]"
    check(read)


def test_the_name_is_the_folders_even_from_within(artifact: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(artifact)
    assert read_artifact(".").name == "linear-fp32"


def test_a_bare_file_is_described_as_far_as_can_be_known(linear: Path, tmp_path: Path):
    read = read_artifact(linear)
    assert read.bare
    assert (read.name, read.format, read.model) == ("linear", "onnx", linear)
    assert read.bytes == linear.stat().st_size
    assert (read.inputs, read.history) == ((), ())
    assert read.asset("linear.onnx") is None
    check(read)
    shouted = tmp_path / "LINEAR.ONNX"
    shouted.write_bytes(linear.read_bytes())
    assert read_artifact(shouted).bare


@pytest.mark.parametrize("name", ["missing", "", "x" * 300, "nul\0byte", "file.txt"])
def test_a_path_that_is_no_artifact_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "file.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(ArtifactError) as error:
        read_artifact(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_line(artifact: Path):
    (artifact / "model.onnx").chmod(0)
    with pytest.raises(ArtifactError, match="permission"):
        check(read_artifact(artifact))
    (artifact / MANIFEST).chmod(0)
    with pytest.raises(ArtifactError, match="permission"):
        read_artifact(artifact)


@given(st.data())
def test_a_manifest_with_one_field_changed_or_gone_is_read_or_refused(artifact: Path, data: st.DataObject):
    """Whatever stands there instead: no other exception than ours, and never a file outside of the folder."""
    manifest = artifact / MANIFEST
    original = manifest.read_text(encoding="utf-8")
    raw = json.loads(original)
    holder: Any = raw
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys), "key")
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans(), "stop"):
            break
        holder = holder[key]
    if data.draw(st.booleans(), "remove"):
        del holder[key]
    else:
        holder[key] = copy.deepcopy(data.draw(JSON | st.just("../../etc/passwd") | st.just(float("inf")), "instead"))
    manifest.write_text(json.dumps(raw), encoding="utf-8")
    try:
        _read_and_use(artifact)
    finally:
        manifest.write_text(original, encoding="utf-8")


def _read_and_use(path: Path) -> None:
    try:
        read = read_artifact(path)
        assert read.model.parent == path
        assert read.bytes >= 0 or any(file.bytes < 0 for file in read.files)
        assert [str(port) for port in read.inputs + read.outputs]
        check(read)
        load(path)
    except (ArtifactError, UnknownName):
        pass


@given(st.binary(max_size=40))
def test_a_manifest_of_any_bytes_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"artifact\.json is damaged"):
        read_artifact(tmp_path)


def test_a_manifest_that_nests_without_end_is_refused(tmp_path: Path):
    (tmp_path / MANIFEST).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ArtifactError, match="damaged"):
        read_artifact(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "sub/model.onnx"])
def test_a_manifest_cannot_reach_outside_its_folder(artifact: Path, name: str):
    read = read_artifact(artifact)
    write_manifest(replace(read, files=(replace(read.files[0], name=name), *read.files[1:])))
    with pytest.raises(ArtifactError, match="plain file names"):
        read_artifact(artifact)


def test_a_newer_manifest_says_to_upgrade(artifact: Path):
    raw = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    (artifact / MANIFEST).write_text(json.dumps(raw | {"schema": 99}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"schema 99.*upgrade"):
        read_artifact(artifact)


def test_a_file_that_is_missing_cut_or_changed_is_named(artifact: Path):
    model = artifact / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed"):
        check(read_artifact(artifact))
    model.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"model\.onnx has \d+ bytes"):
        check(read_artifact(artifact))
    model.unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        check(read_artifact(artifact))
    model.write_bytes(content)
    check(read_artifact(artifact))


def test_a_file_is_described_by_its_hash(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert describe(tmp_path / "abc", "asset") == File("abc", 3, digest, "asset")


def test_a_format_is_looked_up_by_name():
    assert known_format("onnx", {"onnx": 1}) == 1
    with pytest.raises(UnknownName, match="unknown format 'onxx'; known: onnx"):
        known_format("onxx", {"onnx": 1})


def test_several_formats_are_named_with_commas_between():
    table = {"onnx": 1, "tflite": 2}
    assert known_formats("onnx", table) == ("onnx",)
    assert known_formats("tflite, onnx", table) == ("tflite", "onnx")
    with pytest.raises(UsageError, match="the format onnx is named twice in 'onnx,tflite,onnx'; name each once"):
        known_formats("onnx,tflite,onnx", table)
    for wrong in ("onnx,", "", "onnx,gguf", "onnx tflite"):
        with pytest.raises(UnknownName, match=r"unknown format .*; known: onnx, tflite"):
            known_formats(wrong, table)
