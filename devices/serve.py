"""Serve: a folder on this machine's loopback, with the types and headers that a web build is at its best with."""

import gzip
import os
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from ..runtime.errors import UsageError

LOOPBACK = "127.0.0.1"
# Threads of WebAssembly need an isolated page (COOP, COEP); the policy is that of the page, for workers too.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; style-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".mts": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
_NOWHERE = f"{os.devnull}/not-there"  # no file can have this name
# What shrinks on the way; the model's integers do too, by a tenth or more.
_SQUEEZED = (".css", ".html", ".js", ".json", ".mjs", ".onnx", ".svg", ".txt", ".wasm", ".webmanifest")


def server(folders: Mapping[str, Path], port: int = 0) -> ThreadingHTTPServer:
    """A server of folders by their first path segment ("" is the root), for `serve_forever`; port 0 is any free one.

    Raises UsageError where a folder is missing or the port is taken.

    >>> server({"": Path("site")}).server_address
    ('127.0.0.1', 43517)
    """
    for folder in folders.values():
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder} to serve; export a model with --to web first")

    class Handler(_Handler):
        roots: ClassVar = {name: folder.resolve() for name, folder in folders.items()}

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} cannot be had ({error}); name another one, or none") from error


class _Handler(SimpleHTTPRequestHandler):
    """Files and nothing else: no listings, no way out of the folder."""

    roots: ClassVar[Mapping[str, Path]] = {}
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        """The file of a request; what lies outside becomes a name that is not there."""
        parts = [part for part in unquote(urlsplit(path).path).split("/") if part not in ("", ".")]
        root, rest = self._place(parts)
        found = root.joinpath(*rest).resolve()
        return str(found) if ".." not in parts and found.is_relative_to(root) else _NOWHERE

    def _place(self, parts: Sequence[str]) -> tuple[Path, Sequence[str]]:
        if parts and parts[0] in self.roots:
            return self.roots[parts[0]], parts[1:]
        return self.roots.get("", Path(_NOWHERE)), parts

    def guess_type(self, path: Any) -> str:
        """The type by the name's ending: a module of another type would not run."""
        return TYPES.get(Path(path).suffix, "application/octet-stream")

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        squeezes = "gzip" in self.headers.get("Accept-Encoding", "") and path.suffix in _SQUEEZED
        if not (squeezes and path.is_file()):
            super().do_GET()
            return
        stat = path.stat()
        content = _squeezed(path, stat.st_mtime_ns, stat.st_size)
        tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Vary", "Accept-Encoding")
        self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(content)

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND, "there is no index.html")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the library's name
        """Nothing: the terminal shows where it serves, and errors."""


@cache
def _squeezed(path: Path, changed: int, size: int) -> bytes:
    """The file deflated, once for each of its states."""
    return gzip.compress(path.read_bytes(), 6)
