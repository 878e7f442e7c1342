"""What a web build carries from npm: the pinned files and no others, from the cache or from a folder that one names."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress.export import npm
from edgepress.runtime.errors import MissingExtra, UsageError


@pytest.mark.parametrize("package", [npm.ORT, npm.TOKENIZERS, npm.HASHES], ids=str)
def test_the_cache_holds_each_file_with_its_hash(package: npm.Package):
    place = npm.from_cache(package)
    assert npm.version(place) == package.version
    for name, sha256 in package.files.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == sha256


def test_without_npm_and_without_a_cache_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(MissingExtra, match=r"npm, .*--ort-web DIR.* is not installed; .*edgepress\[web\]"):
        npm.from_cache(npm.HASHES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_npm_cannot_bring_is_told_with_npms_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failing(tmp_path, "echo 'npm error code E404' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UsageError, match=r"npm cannot bring @noble/hashes@2.4.0 \(npm error code E404\); check"):
        npm.from_cache(npm.HASHES, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_is_not_the_known_one_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """npm brings a real archive, of another content than the one that is pinned."""
    content = tmp_path / "package"
    shutil.copytree(npm.from_cache(npm.HASHES), content)
    (content / "sha2.js").write_text("export const sha256 = () => new Uint8Array(32);")
    failing(tmp_path, f'tar czf "$4/noble-hashes.tgz" -C {tmp_path} package')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UsageError, match=r"what npm brought as @noble/hashes@2.4.0 is not what edgepress knows"):
        npm.from_cache(npm.HASHES, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = npm.from_cache(npm.HASHES)
    shutil.copytree(good, tmp_path / "package")
    failing(tmp_path, f'tar czf "$4/noble-hashes.tgz" -C {tmp_path} package')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    place = npm.from_cache(npm.HASHES, tmp_path / "cache")
    (place / "sha2.js").write_text("broken")
    assert npm.from_cache(npm.HASHES, tmp_path / "cache") == place
    assert (place / "sha2.js").read_bytes() == (good / "sha2.js").read_bytes()


def failing(folder: Path, script: str) -> None:
    """Another npm in a folder of the path."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.mark.parametrize("layout", ["node_modules/@noble/hashes", "package", "."])
def test_a_folder_serves_as_npm_leaves_it(tmp_path: Path, layout: str):
    shutil.copytree(npm.from_cache(npm.HASHES), tmp_path / layout, dirs_exist_ok=True)
    assert npm.from_folder(npm.HASHES, tmp_path, list(npm.HASHES.files)).samefile(tmp_path / layout)


def test_a_folder_without_a_file_is_refused_with_the_line_that_fills_it(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no @noble/hashes@2.4.0 \(sha2.js\); .*npm install --prefix .* @noble"):
        npm.from_folder(npm.HASHES, tmp_path, ["sha2.js"])


def test_a_folder_of_another_version_is_the_users_and_told(tmp_path: Path):
    (tmp_path / "package.json").write_text(json.dumps({"version": "9.9.9"}))
    assert npm.version(tmp_path) == "9.9.9"
    assert npm.version(tmp_path / "none") == ""


def test_the_licence_is_one_of_the_files():
    for package in (npm.ORT, npm.TOKENIZERS, npm.HASHES):
        assert not package.licence or package.licence in package.files
    assert str(replace(npm.ORT, version="1")) == "onnxruntime-web@1"
