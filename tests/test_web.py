"""A web build is the ONNX artifact with a page around it: the same model bytes, and a hash for every file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edgepress.export import npm
from edgepress.export.formats import export
from edgepress.export.model import Model, Web
from edgepress.export.web import LICENCES
from edgepress.runtime import load
from edgepress.runtime.artifact import GOLDEN, Artifact, check, read_artifact
from edgepress.runtime.errors import ArtifactError, ModelError, UsageError

from .quantize_check import chain, random, seeded

PAGE = Path(__file__).resolve().parent.parent / "export" / "page"


def classifier(**changes: object) -> Model:
    network, assets = seeded(chain(nn.Linear(64, 256), nn.Linear(256, 2))), {"labels.json": b'["no", "yes"]'}
    model = Model("yes & <no>", network, {"x": random(2, 64)}, ("y",), {"x": {0: "batch"}}, assets)
    return replace(model, **changes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(classifier(), "web", tmp_path_factory.mktemp("web") / "site")


def test_the_model_is_the_onnx_exporters_byte_for_byte(site: Artifact, tmp_path: Path):
    alone = export(classifier(), "onnx", tmp_path / "onnx")
    assert site.model.read_bytes() == alone.model.read_bytes()
    assert site.bytes == alone.bytes


def test_the_manifest_names_every_file_and_no_other(site: Artifact):
    listed = {file.name for file in site.files}
    assert listed | {"artifact.json"} == {path.name for path in site.path.iterdir()}
    assert {file.role for file in site.files} == {"model", "golden", "asset", "page"}
    check(site)


def test_it_carries_the_page_the_engine_and_their_licences(site: Artifact):
    names = {file.name for file in site.files if file.role == "page"}
    assert names >= {path.name for path in PAGE.iterdir()}
    assert names >= {"ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "sha2.js"}
    assert not any("webgpu" in name or "tokenizers" in name for name in names)
    licences = (site.path / LICENCES).read_text(encoding="utf-8")
    assert re.findall(r"^(\S+) [\d.]+$", licences, re.M) == ["onnxruntime-web", "@noble/hashes"]
    assert licences.count("Permission is hereby granted") == 2
    assert site.tools["onnxruntime-web"] == npm.ORT.version


def test_a_text_model_gets_a_tokenizer_and_one_that_asks_gets_webgpu(tmp_path: Path):
    model = classifier(assets={"tokenizer.json": b"{}"}, web=Web(webgpu=True))
    names = {file.name for file in export(model, "web", tmp_path / "site").files}
    assert names >= {"tokenizers.min.mjs", "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"}


def test_the_models_name_is_quoted_where_it_is_told(site: Artifact):
    page = (site.path / "index.html").read_text(encoding="utf-8")
    assert "yes &amp; &lt;no&gt;" in page
    assert "<no>" not in page
    assert json.loads((site.path / "site.webmanifest").read_bytes())["name"] == "yes & <no>"


def test_it_opens_here_too_and_gives_its_golden_outputs(site: Artifact):
    model = load(site.path)
    assert model.selftest().passed
    assert model(x=np.zeros((3, 64), np.float32))["y"].shape == (3, 2)


def test_no_file_is_larger_than_asked_and_the_parts_are_the_whole(site: Artifact, tmp_path: Path):
    split = export(classifier(web=Web(max_file=30_000)), "web", tmp_path / "split")
    assert max(file.bytes for file in split.files) <= 30_000
    parts = [file.name for file in split.files if file.role == "model"]
    assert parts == [f"model.onnx.{index:03d}" for index in range(len(parts))]
    assert len(parts) == 3
    assert b"".join((split.path / name).read_bytes() for name in parts) == site.model.read_bytes()
    assert split.bytes == site.bytes
    assert load(split.path).selftest().passed


def test_a_part_that_is_missing_is_told_when_it_is_opened(tmp_path: Path):
    split = export(classifier(web=Web(max_file=30_000)), "web", tmp_path / "split")
    (split.path / "model.onnx.001").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx\.001 is missing; copy the whole folder again"):
        load(split.path)


def test_the_engine_comes_from_a_folder_that_one_names(tmp_path: Path):
    own = tmp_path / "own"
    for package in (npm.ORT, npm.HASHES):
        shutil.copytree(npm.from_cache(package), own / "node_modules" / package.name)
    (own / "node_modules" / "onnxruntime-web" / "package.json").write_text('{"version": "1.30.0-mine"}')
    site = export(classifier(web=Web(ort_web=own)), "web", tmp_path / "site")
    assert site.tools["onnxruntime-web"] == "1.30.0-mine"


def test_a_folder_without_the_engine_is_refused_and_nothing_is_left(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no onnxruntime-web@1\.30\.0 .*npm install --prefix"):
        export(classifier(web=Web(ort_web=tmp_path)), "web", tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["edgepress.mjs", "ort.wasm.min.mjs", LICENCES])
def test_an_asset_with_a_name_of_the_pages_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ModelError, match=rf"has the file '{name}', a name that the page needs; rename it"):
        export(classifier(assets={name: b""}), "web", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_an_artifact_names_the_golden_samples_that_the_page_replays(site: Artifact):
    assert site.asset(GOLDEN) is not None
    assert read_artifact(site.path).tolerance > 0
