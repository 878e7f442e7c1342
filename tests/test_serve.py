"""Serving a folder on loopback: the right types, the headers that threads need, and no way out of the folder."""

import gzip
import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepress.devices.serve import HEADERS, LOOPBACK, server
from edgepress.runtime.errors import UsageError


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html>")
    (tmp_path / "secret").write_text("not for the web")
    with server({"": folder, "other": folder}) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, running.server_address[1]
        running.shutdown()


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mjs", "text/javascript; charset=utf-8"), ("a.wasm", "application/wasm"), ("a.json", "application/json"),
     ("a.webmanifest", "application/manifest+json"), ("a.onnx", "application/octet-stream"),
     ("a.css", "text/css; charset=utf-8")],
)  # fmt: skip
def test_each_file_has_its_type_and_every_answer_the_headers(site: tuple[Path, int], name: str, kind: str):
    (site[0] / name).write_bytes(b"content")
    status, headers, content = get(site[1], f"/{name}")
    assert (status, headers["content-type"], content) == (200, kind, b"content")
    assert set(HEADERS.values()) <= set(headers.values())


def test_the_folder_itself_is_its_index(site: tuple[Path, int]):
    assert get(site[1], "/")[2] == b"<!doctype html>"
    assert get(site[1], "/?from=somewhere#there")[2] == b"<!doctype html>"
    assert get(site[1], "/other/")[2] == b"<!doctype html>"


def test_what_is_not_there_is_a_404_with_the_headers_too(site: tuple[Path, int]):
    status, headers, _ = get(site[1], "/nothing.json")
    assert (status, headers["cross-origin-embedder-policy"]) == (404, "require-corp")


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/other/../../secret", "/..%2fsecret", "//../secret"])
def test_nothing_outside_of_the_folder_is_served(site: tuple[Path, int], path: str):
    assert get(site[1], path)[0] == 404


def test_a_link_that_leads_out_of_the_folder_is_not_followed(site: tuple[Path, int]):
    (site[0] / "link").symlink_to(site[0].parent / "secret")
    assert get(site[1], "/link")[0] == 404


def test_a_folder_without_an_index_is_not_listed(site: tuple[Path, int]):
    (site[0] / "below").mkdir()
    assert get(site[1], "/below/")[0] == 404


def test_who_takes_gzip_gets_it_and_a_file_that_changed_is_new(site: tuple[Path, int]):
    (site[0] / "a.json").write_bytes(b"1" * 10_000)
    _, headers, content = get(site[1], "/a.json", Accept_Encoding="gzip")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(content) == b"1" * 10_000
    assert len(content) == int(headers["content-length"]) < 200
    assert get(site[1], "/a.json", Accept_Encoding="gzip", If_None_Match=headers["etag"])[::2] == (304, b"")
    (site[0] / "a.json").write_bytes(b"2" * 9_000)
    assert gzip.decompress(get(site[1], "/a.json", Accept_Encoding="gzip")[2]) == b"2" * 9_000


def test_a_missing_folder_and_a_taken_port_are_told(site: tuple[Path, int], tmp_path: Path):
    with pytest.raises(UsageError, match=r"there is no folder .*nothing to serve; export a model with --to web first"):
        server({"": tmp_path / "nothing"})
    with pytest.raises(UsageError, match=rf"port {site[1]} cannot be had \(.*in use.*\); name another one, or none"):
        server({"": site[0]}, site[1])


def test_it_answers_on_loopback_alone(site: tuple[Path, int]):
    assert re.fullmatch(r"127(\.\d+){3}", LOOPBACK)
