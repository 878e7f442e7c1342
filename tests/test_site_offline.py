"""A site on other people's hosts, in a real browser: without network or headers, slow, damaged, wrong, updated."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from .browser import READY, Host, changed, chromium, damaged, fact, ready, wait_for_fact, watched


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def kept(page: Page) -> None:
    wait_for_fact(page, "Offline", "ready")


def reloaded(page: Page) -> Page:
    """Loaded again, as a person does it."""
    page.reload()
    page.wait_for_selector(READY)
    return page


def renamed(site: Path, folder: Path, title: str) -> Path:
    """The next version of a site, which says so."""
    index = (site / "index.html").read_text(encoding="utf-8")
    return changed(site, folder, {"index.html": re.sub("<h1>.*</h1>", f"<h1>{title}</h1>", index).encode()})


def test_a_site_opens_with_its_host_gone_and_has_threads_that_the_host_gave_no_headers_for(
    browser: Browser, digits_site: Path
):
    host = Host(digits_site)
    with host.running() as address, watched(browser, address) as page:
        ready(page, address)
        assert fact(page, "Runs on").startswith("wasm, 1 thread")
        assert "it is when it is loaded again" in fact(page, "Runs on")
        kept(page)
        port = int(address.split(":")[2].strip("/"))
        assert reloaded(page).evaluate("crossOriginIsolated")
        assert re.match(r"wasm-threads, \d threads", fact(page, "Runs on"))
        assert "all was kept" in fact(page, "Model")
        kept(page)
    with host.running(port) as address, browser.new_context() as context:
        page = context.new_page()
        ready(page, address)
        kept(page)
        first = page.locator(".bars").inner_text()
        context.set_offline(True)  # also the worker's fetches
        reloaded(page)
        assert page.locator(".bars").inner_text() == first
        assert page.locator("body").evaluate("(body) => getComputedStyle(body).maxWidth") == "1152px"  # page.css


def test_a_site_opens_after_its_server_has_ended(browser: Browser, digits_site: Path):
    context = browser.new_context()
    page = context.new_page()
    with Host(digits_site).running() as address:
        kept(ready(page, address))
    reloaded(page)
    assert page.locator(".bars li").count() == 5
    kept(page)
    context.close()


def test_the_site_can_be_installed(browser: Browser, digits_site: Path):
    with Host(digits_site).running() as address, watched(browser, address) as page:
        kept(ready(page, address))
        session = page.context.new_cdp_session(page)
        errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert {error["errorId"] for error in errors} <= {"in-incognito"}  # as a test's pages are
        manifest = session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        assert json.loads(manifest["data"])["name"] == "digits"


@pytest.mark.parametrize("name", ["model.onnx", "ort-wasm-simd-threaded.wasm"])
def test_a_damaged_file_is_named(browser: Browser, digits_site: Path, tmp_path: Path, name: str):
    broken = damaged((digits_site / name).read_bytes())
    site = changed(digits_site, tmp_path / "site", {name: broken}, hashes=False)
    with Host(site).running() as address, watched(browser, address) as page:
        card = ready(page, address).get_by_role("alert")
        assert "A file is damaged" in card.inner_text()
        assert f"{name} is not the file that was exported" in card.inner_text()
        assert page.locator("#view").is_hidden()


def test_a_slow_network_shows_how_far_it_is(browser: Browser, digits_site: Path):
    host = Host(digits_site)
    host.pause_s = 0.05
    with host.running() as address, watched(browser, address) as page:
        page.goto(address)
        page.wait_for_function(
            "() => [document.querySelector('#bar').value].some((share) => share > 0.1 && share < 0.9)"
        )
        assert re.fullmatch(r"Loading: [\d.]+ (kB|MB) of [\d.]+ MB", page.locator("#phase").inner_text())
        host.pause_s = 0.0
        page.wait_for_selector(READY)
        assert page.locator("#status").is_hidden()


# ONNX Runtime around its own: what several threads compute is off by one.
WRONG = b"""\
import * as ort from "./ort.right.mjs";
export const { env, Tensor } = ort;
export const InferenceSession = {
  async create(...given) {
    const session = await ort.InferenceSession.create(...given);
    return { run: async (feeds) => {
      const outputs = await session.run(feeds);
      if (env.wasm.numThreads > 1) for (const tensor of Object.values(outputs)) tensor.data[0] += 1;
      return outputs;
    } };
  },
};
"""


def test_a_backend_that_computes_wrongly_is_refused_and_the_next_one_is_taken(
    browser: Browser, digits_site: Path, tmp_path: Path
):
    site = changed(digits_site, tmp_path / "site", {"ort.wasm.min.mjs": WRONG})
    (site / "ort.right.mjs").write_bytes((digits_site / "ort.wasm.min.mjs").read_bytes())
    with Host(site).running() as address, watched(browser, address) as page:
        kept(ready(page, address))  # here without threads, so it is right
        assert page.locator(".warning").count() == 0
        warning = reloaded(page).locator(".warning").inner_text()
        assert "wasm-threads computes wrongly in this browser and was refused" in warning
        assert "1e-4 is allowed" in warning
        assert "The model runs on wasm instead" in warning
        assert fact(page, "Runs on").startswith("wasm, 1 thread")


def test_a_new_version_is_taken_whole_and_shown_after_a_reload(browser: Browser, digits_site: Path, tmp_path: Path):
    host = Host(renamed(digits_site, tmp_path / "one", "one"))
    with host.running() as address, watched(browser, address) as page:
        kept(ready(page, address))
        host.site = renamed(digits_site, tmp_path / "two", "two")
        assert reloaded(page).locator("h1").inner_text() == "one"
        page.get_by_text("A new version is ready.").wait_for()
        with page.expect_navigation():
            page.get_by_role("button", name="Reload").click()
        page.wait_for_selector(READY)
        assert page.locator("h1").inner_text() == "two"
        kept(page)
        assert page.locator("#news").is_hidden()
        assert len(page.evaluate("caches.keys()")) == 2  # the new version and the pointer to it


def test_of_a_new_version_with_a_damaged_file_nothing_is_taken(browser: Browser, digits_site: Path, tmp_path: Path):
    host = Host(renamed(digits_site, tmp_path / "one", "one"))
    next_version = renamed(digits_site, tmp_path / "two", "two")
    (next_version / "index.html").write_bytes(damaged((next_version / "index.html").read_bytes()))
    with host.running() as address, watched(browser, address) as page:
        kept(ready(page, address))
        host.site = next_version
        reloaded(page)
        wait_for_fact(page, "Offline", "a new version is there, and was not taken: index.html is not the file")
        assert reloaded(page).locator("h1").inner_text() == "one"
        assert page.locator(".bars li").count() == 5


def test_nothing_is_updated_where_nothing_is_kept(browser: Browser, digits_site: Path):
    with Host(digits_site).running() as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}artifact.json")
        found = page.evaluate("""async (address) => {
            const { keepOffline, update } = await import(address + "edgepress.mjs");
            const before = await update(address);
            const keys = await caches.keys();
            return [before, keys.length, await keepOffline(address), await update(address)];
        }""", address)  # fmt: skip
        assert found == [False, 1, True, False]  # the cache of pointers is looked into, and is empty
