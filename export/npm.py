"""What a web build carries from the npm registry: pinned files, from npm's client into a cache, or from a folder.

Every file of the cache is compared with the sha256 that stands here. A folder that the user names may hold another
version: then it is the user's, and is told in the manifest.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import MissingExtra, UsageError
from ..runtime.files import new_folder

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Package:
    """A package of npm's: `files` are paths in it, with the sha256 that they have; `licence` is its text's path."""

    name: str
    version: str
    files: Mapping[str, str]
    licence: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


ORT = Package(
    "onnxruntime-web",
    "1.30.0",
    {
        "dist/ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
        "dist/ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        "dist/ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
)
ORT_WEBGPU = Package(
    ORT.name,
    ORT.version,
    {
        "dist/ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
        "dist/ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
        "dist/ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
    },
)
TOKENIZERS = Package(
    "@huggingface/tokenizers",
    "0.2.0",
    {
        "dist/tokenizers.min.mjs": "258e46332101335ce8d95aed7745b19ac3b46d37f3e159a89cf894c2ea9b1d3a",
        "LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    },
    "LICENSE",
)
HASHES = Package(
    "@noble/hashes",
    "2.4.0",
    {
        "sha2.js": "471746bba6ec4c6238ca41358d1d3b40b6ff31cf3363f0b4d550c649c1a8e83b",
        "_md.js": "60cf3010fda89e3e4d3f0e7ff1ce249e9c467f34b4fd41b6fd6101d9f69be763",
        "_u64.js": "b09da8c07fe8187c07649494cdb7cd0bcf13df90b506a9473d19e4d5f8c2e102",
        "utils.js": "037ad49adb78168b6b699598fd33f85f7877456b1d28b4d032e2a1a16807947c",
        "LICENSE": "4f221aee6e072336700c408c68ab3b96a3fc09f6aebe6f48f1bd99e5ef13faec",
    },
    "LICENSE",
)


def from_folder(package: Package, folder: Path) -> Path:
    """The folder of a package below `folder`, as `npm install --prefix` or `npm pack` left it, unpacked.

    Raises UsageError where it, or one of its files, is not there.
    """
    for place in (folder / "node_modules" / package.name, folder / package.name, folder / "package", folder):
        if all((place / name).is_file() for name in package.files):
            return place
    names = ", ".join(package.files)
    raise UsageError(f"{folder} has no {package} ({names}); fill it with: npm install --prefix {folder} {package}")


def from_cache(package: Package, cache: Path | None = None) -> Path:
    """The folder of a package in the cache, fetched by npm where it is not there. Raises MissingExtra, UsageError."""
    place = (cache or default_cache()) / f"{package.name.replace('/', '+')}-{package.version}"
    if not _is_right(package, place):
        _fetch(package, place)
    return place


def version(place: Path) -> str:
    """The version that a package's folder says it has; "" where it says none."""
    try:
        return str(json.loads((place / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/edgepress/npm`, as the freedesktop base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepress" / "npm"


def client() -> str | None:
    """npm: that of the path, else the one that the extra `web` puts beside this Python."""
    return shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))


def _is_right(package: Package, place: Path) -> bool:
    return all(
        (place / name).is_file() and hashlib.sha256((place / name).read_bytes()).hexdigest() == sha256
        for name, sha256 in package.files.items()
    )


def _fetch(package: Package, place: Path) -> None:
    npm = client()
    if npm is None:
        raise MissingExtra(
            "npm, with which a web build fetches onnxruntime-web (or name a folder: --ort-web DIR)", "web"
        )
    shutil.rmtree(place, ignore_errors=True)
    with tempfile.TemporaryDirectory() as there, new_folder(place) as folder:
        arguments = [npm, "pack", str(package), "--pack-destination", there, "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(f"npm did not bring {package} in {TIMEOUT_S:g} s; {_REMEDY}") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise UsageError(f"npm cannot bring {package} ({lines[0] if lines else done.returncode}); {_REMEDY}")
        _unpack(package, next(Path(there).glob("*.tgz")), folder)
        if not _is_right(package, folder):
            raise UsageError(f"what npm brought as {package} is not what edgepress knows (sha256); {_REMEDY}")


_REMEDY = "check the network, or name a folder that has it: --ort-web DIR"


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Only the files that are known by name, so that an archive cannot write elsewhere."""
    with tarfile.open(archive) as tar:
        for name in (*package.files, "package.json"):
            content = tar.extractfile(f"package/{name}")
            assert content is not None
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.read())
