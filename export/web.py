"""The web build: an ONNX artifact with a page around it, a folder that any file host serves and any browser runs.

The model file is the ONNX exporter's, byte for byte. Beside it lie ONNX Runtime's WebAssembly, a small module that
opens it (`edgepress.mjs`), a page for people and a service worker for use without a network; the manifest has the hash
of each.
"""

import html
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ..runtime.artifact import MANIFEST, Artifact, File, describe
from ..runtime.errors import ModelError
from . import npm
from .model import Web

_PAGE = "page"
LICENCES = "LICENCES.txt"
# Files whose text holds the model's name.
_NAMED = ("index.html", "site.webmanifest")


def lay(artifact: Artifact, name: str, web: Web) -> Artifact:
    """Put the page and the engine into the folder of a finished ONNX artifact; the artifact of the site.

    Raises ModelError where a file of the model has the name of one of the page's, UsageError and MissingExtra where the
    engine is not to be had.
    """
    folder, files = artifact.path, list(artifact.files)
    taken = {file.name for file in files} | {MANIFEST}
    tools = dict(artifact.tools)
    for found, content in [*_page(name), *_engine(artifact, web, tools)]:
        if found in taken:
            raise ModelError(f"{name} has the file {found!r}, a name that the page needs; rename it")
        (folder / found).write_bytes(content)
        files.append(describe(folder / found, "page"))
    split = [part for file in files for part in _split(folder, file, web.max_file)]
    return replace(artifact, format="web", files=tuple(split), tools=tools)


def _page(name: str) -> Iterator[tuple[str, bytes]]:
    """The files of `export/page`, with the model's name where it is told."""
    for file in sorted((resources.files("edgepress.export") / _PAGE).iterdir(), key=lambda file: file.name):
        content = file.read_bytes()
        if file.name in _NAMED:
            quoted = html.escape(name) if file.name.endswith(".html") else json.dumps(name)[1:-1]
            content = content.replace(b"{{name}}", quoted.encode())
        yield file.name, content


def _engine(artifact: Artifact, web: Web, tools: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """ONNX Runtime, what reads texts, and their licences."""
    packages = [npm.ORT, npm.HASHES, *([npm.TOKENIZERS] if artifact.asset("tokenizer.json") else [])]
    licences = []
    for package in packages:
        wanted = [path for path in package.files if web.webgpu or path not in npm.WEBGPU]
        place = npm.from_cache(package) if web.ort_web is None else npm.from_folder(package, web.ort_web, wanted)
        tools[package.name] = npm.version(place) or "unknown"
        for path in wanted:
            if path != package.licence:
                yield Path(path).name, (place / path).read_bytes()
        text = (place / package.licence).read_text(encoding="utf-8") if package.licence else _MIT
        licences.append(f"{package.name} {tools[package.name]}\n\n{text.strip()}\n")
    yield LICENCES, "\n\n".join(licences).encode()


def _split(folder: Path, file: File, most: int | None) -> list[File]:
    """The file, or its parts `NAME.000`, `NAME.001`, … of at most `most` bytes, in place of it."""
    if most is None or file.bytes <= most:
        return [file]
    parts = []
    with (folder / file.name).open("rb") as stream:
        for index, piece in enumerate(iter(lambda: stream.read(most), b"")):
            path = folder / f"{file.name}.{index:03d}"
            path.write_bytes(piece)
            parts.append(describe(path, file.role))
    (folder / file.name).unlink()
    return parts


# onnxruntime-web 1.30 is under the MIT licence and comes without its text.
_MIT = """\
MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
