"""A web build in a real browser: the same numbers as here, the same refusals, and no process left behind."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgepress.compress.quantize import DynamicInt8
from edgepress.compress.source import read_source
from edgepress.devices import find_device
from edgepress.devices.browser import Browser, BrowserEngine, decoded, encoded, open_browser, open_in_browser
from edgepress.devices.browser_bench import descendants
from edgepress.export.formats import export
from edgepress.export.precision import SAME
from edgepress.runtime.artifact import Artifact, read_artifact, write_manifest
from edgepress.runtime.errors import DeviceError, EngineError, MissingExtra, PortError, UnsupportedError
from edgepress.runtime.golden import difference, read_golden
from edgepress.runtime.session import LoadedModel, load

from .chromium import all_gone, digits_site, kinds_site, needs_chromium

OPENING = """\
import sys, time
from edgepress.devices.browser import open_in_browser
from edgepress.runtime.artifact import read_artifact

with open_in_browser(read_artifact(sys.argv[1])) as model:
    print("open", flush=True)
    while True:
        model.selftest()
"""


# What every machine has at hand: a module's own words.
PROSE = [" ".join(part.split()) for part in (argparse.__doc__ or "").split("\n\n") if part.strip()]


@pytest.fixture(scope="module")
def sites(digits_sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """`digits`, `kinds`; `damaged`, with one byte of the model changed; `strict`, whose golden outputs never come."""
    folder = tmp_path_factory.mktemp("sites")
    digits = digits_site(digits_sample, folder / "digits")
    found = {"digits": digits, "kinds": kinds_site(folder / "kinds")}
    for name in ("damaged", "strict"):
        shutil.copytree(digits.path, folder / name)
        found[name] = read_artifact(folder / name)
    with found["damaged"].model.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\0")
    write_manifest(replace(found["strict"], tolerance=-1.0))
    return found


@pytest.fixture(scope="module")
def browser(sites: dict[str, Artifact]) -> Iterator[Browser]:
    with open_browser(sites) as running:
        yield running


@pytest.fixture(scope="module")
def model(browser: Browser, sites: dict[str, Artifact]) -> LoadedModel:
    return browser.open(sites["digits"], "digits")


@needs_chromium
def test_a_model_computes_in_the_browser_what_it_computes_here(model: LoadedModel, sites, digits_sample):
    here = load(sites["digits"].path)
    images = digits_sample.digits().test_images[:40]
    for batch in (images[:1], images):
        apart = difference(model(image=batch)["logits"], here(image=batch)["logits"])
        assert apart <= model.artifact.tolerance
    assert isinstance(model.engine, BrowserEngine)
    assert model.engine.providers in (("wasm-threads",), ("wasm",))


@needs_chromium
def test_the_golden_samples_come_back(model: LoadedModel):
    seen = model.selftest()
    print(f"digits in the browser: difference {seen.difference:.1e}, tolerance {seen.tolerance:.0e}")
    assert seen.passed
    assert seen.cases == 2


@needs_chromium
def test_a_score_judges_it_as_any_session(model: LoadedModel, sites, digits_sample):
    task = digits_sample.judged(digits_sample.ResNet8().eval(), digits_sample.digits())
    assert task.data.score(model) == task.data.score(load(sites["digits"].path))


@needs_chromium
def test_every_kind_of_number_goes_there_and_back(browser: Browser, sites):
    kinds = browser.open(sites["kinds"], "kinds")
    inputs = {
        "half": np.array([[1.5, -2.25], [65504, 1e-3]], np.float16),
        "flag": np.array([[True, False], [False, True]]),
        "long": np.array([[2**62, -(2**62)], [0, -1]], np.int64),
        "byte": np.array([[0, 255], [1, 128]], np.uint8),
    }
    for name, array in kinds(**inputs).items():
        np.testing.assert_array_equal(array, inputs[name.removesuffix("_back")], strict=True)


@needs_chromium
def test_a_call_that_does_not_fit_is_refused_as_it_is_here(model: LoadedModel, sites):
    for wrong in ({"picture": np.zeros((1, 1, 32, 32), np.float32)}, {"image": np.zeros((1, 1, 32, 31), np.float32)}):
        with pytest.raises(PortError) as here:
            load(sites["digits"].path)(**wrong)
        with pytest.raises(PortError) as there:
            model(**wrong)
        assert str(there.value) == str(here.value)


@needs_chromium
def test_a_model_may_be_called_from_several_threads(model: LoadedModel):
    (case, *_) = read_golden(model.artifact.path / "golden.npz")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model(**case.inputs)["logits"], range(8)))
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


@needs_chromium
def test_a_damaged_site_is_told_in_one_line(browser: Browser, sites):
    with pytest.raises(EngineError, match=r"damaged: model.onnx is not the file that was exported \(sha256\); copy"):
        browser.open(sites["damaged"], "damaged")


@needs_chromium
def test_a_site_that_computes_otherwise_is_refused(browser: Browser, sites):
    with pytest.raises(EngineError, match=r"strict: the model does not run in this browser; .*golden samples come out"):
        browser.open(sites["strict"], "strict")


def test_arrays_are_read_as_they_were_written():
    arrays = {"a": np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2], "b": np.float64(2.5), "c": np.zeros((0, 3), "f2")}
    for name, tensor in encoded({name: np.asarray(array) for name, array in arrays.items()}).items():
        found = decoded(tensor)
        np.testing.assert_array_equal(found, arrays[name])
        assert found.shape == np.shape(arrays[name])
        assert found.flags.writeable


def test_another_format_is_refused(make_artifact):
    with pytest.raises(UnsupportedError, match="is in the format onnx; a browser opens web builds"), \
            open_in_browser(make_artifact("base")):  # fmt: skip
        pass


def opening(site: Artifact) -> None:
    with open_in_browser(site):
        pass


def test_without_playwright_the_extra_is_named(sites, monkeypatch):
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(MissingExtra, match=r"playwright is not installed; .*edgepress\[browser\]"):
        opening(sites["digits"])


def test_without_chromium_it_is_said_how_to_get_one(sites, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"^there is no Chromium here; install one .* or name it in EDGEPRESS_CHROM"):
        opening(sites["digits"])


def test_a_browser_that_was_named_must_be_there_and_be_one(sites, monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CHROMIUM", "/no/such/browser")
    with pytest.raises(DeviceError, match=r"^EDGEPRESS_CHROMIUM names /no/such/browser, which is no program"):
        opening(sites["digits"])
    monkeypatch.setenv("EDGEPRESS_CHROMIUM", "true")
    with pytest.raises(DeviceError, match=r"/true does not start \(.*\); name another browser in EDGEPRESS_CHROMIUM$"):
        opening(sites["digits"])


@needs_chromium
def test_a_failure_leaves_no_process_behind(sites):
    before = set(descendants(os.getpid()))
    started: set[int] = set()
    with pytest.raises(ZeroDivisionError), open_in_browser(sites["digits"]) as model:  # noqa: PT012
        started = set(descendants(os.getpid())) - before
        model.selftest()
        _ = 1 / 0
    assert len(started) > 2
    assert all_gone(sorted(started))


@needs_chromium
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_neither_ctrl_c_nor_a_kill_leaves_a_process_behind(sites, number):
    command = [sys.executable, "-c", OPENING, str(sites["digits"].path)]
    # its own session: the signal reaches the program alone, which must end what it has started
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        started = list(descendants(process.pid))
        process.send_signal(number)
        assert process.wait(30) != 0
    assert len(started) > 2
    assert all_gone(started)


@needs_chromium
@pytest.mark.slow
def test_a_real_text_encoder_computes_what_it_computes_here_in_float_and_in_int8(minilm, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(PROSE), encoding="utf-8")
    task = read_source(str(minilm), texts)
    small = DynamicInt8(reduce_range=find_device("browser").reduce_range)(task.model, task.data)
    tokenizer = Tokenizer.from_str(task.model.assets["tokenizer.json"].decode("utf-8"))
    tokenizer.no_padding()
    for name, made in {"float32": task.model, "int8": small}.items():
        site = export(made, "web", tmp_path / name)
        here, cosines, apart = load(site.path), [], []
        with open_in_browser(site) as model:
            seen = model.selftest()
            for text in PROSE:
                ids = tokenizer.encode(text).ids
                known = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
                inputs = {port.name: np.array([known[port.name]], np.int64) for port in site.inputs}
                x, y = (next(iter(side(**inputs).values())) for side in (model, here))
                cosines.append(float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)))
                apart.append(difference(x, y))
        print(f"MiniLM {name} in the browser: self-test {seen.difference:.1e}, tolerance {seen.tolerance:.0e}; "
              f"texts {np.median(apart):.1e}, at most {max(apart):.1e}")  # fmt: skip
        assert seen.passed
        assert np.mean(cosines) >= SAME[name].cosine
        assert min(cosines) >= SAME[name].worst_cosine
        assert np.median(apart) <= site.tolerance
