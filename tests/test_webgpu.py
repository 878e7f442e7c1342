"""WebGPU, by Chromium's own software adapter: right, and very slow, so that only what it computes is looked at."""

from pathlib import Path

import pytest

from edgepress.compress.site import site_of
from edgepress.export.model import Web

from .browser import chromium, fact, ready, serving, watched

FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


@pytest.mark.slow
def test_a_site_that_carries_webgpu_runs_on_it_after_replaying_the_golden_samples(digits_site: Path, tmp_path: Path):
    site = site_of(digits_site, tmp_path / "gpu", Web(webgpu=True))
    with chromium(*FLAGS) as browser, serving(site.path) as address, watched(browser, address) as page:
        ready(page, address)
        assert "webgpu" in fact(page, "Runs on")
        assert "of the golden ones" in fact(page, "Checked")
