"""What the tests of pages share: a real browser, hosts that fail as real ones do, sites with a fault in them."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from edgepress.devices.serve import server
from edgepress.runtime.artifact import MANIFEST

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# What a page has when it is ready: a view, or the card that says what is wrong.
READY = "#view:not([hidden]), .error"


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """The browser of this machine, without a window. Where there is none the tests are skipped, and say so."""
    path = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO BROWSER IS INSTALLED: the web build is not tested; on Debian: sudo apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
        yield browser
        browser.close()


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """The address of a site on edgepress's own server."""
    with _running(server({"": site})) as address:
        yield address


class Opened:
    """A page from disk, and all that it asked for and complained of."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path.as_uri())


class Host:
    """Somebody's file host: no headers but a file's type. What it has, and how slow it is, may change as it runs."""

    def __init__(self, site: Path) -> None:
        self.site, self.pause_s = site, 0.0

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        host = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given, directory=str(host.site))

            def copyfile(self, source: Any, outputfile: Any) -> None:
                while piece := source.read(200_000):
                    time.sleep(host.pause_s)
                    outputfile.write(piece)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the library's name
                pass

        with _running(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as address:
            yield address


@contextmanager
def _running(started: ThreadingHTTPServer) -> Iterator[str]:
    started.handle_error = lambda request, client: None  # a browser that goes away is no error of ours
    thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{started.server_address[1]}/"
    started.shutdown()
    thread.join()
    started.server_close()


@contextmanager
def watched(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """A page of its own, with its own caches; it may log no error, and may ask nobody but `address`."""
    opened = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | context)
    page = opened.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    ours = (address, "blob:", "data:")
    opened.on("request", lambda sent: None if sent.url.startswith(ours) else wrong.append(sent.url))
    yield page
    opened.close()
    assert wrong == [], wrong


def ready(page: Page, address: str) -> Page:
    """The page, loaded, with its view or its error."""
    page.goto(address)
    page.wait_for_selector(READY)
    return page


def fact(page: Page, name: str) -> str:
    """What the facts say of a term: "Runs on", "Offline"."""
    return page.locator(f"#facts dt:text-is('{name}') + dd").inner_text()


def wait_for_fact(page: Page, name: str, text: str) -> None:
    page.locator(f"#facts dt:text-is('{name}') + dd", has_text=text).wait_for()


def changed(site: Path, folder: Path, files: Mapping[str, bytes], *, hashes: bool = True) -> Path:
    """A copy of a site with other files in it; `hashes` says whether the manifest knows of them."""
    shutil.copytree(site, folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, content in files.items():
        (folder / name).write_bytes(content)
        entry = next(file for file in manifest["files"] if file["name"] == name)
        if hashes:
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def damaged(content: bytes) -> bytes:
    """The same with one bit flipped in the middle."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
