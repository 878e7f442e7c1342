"""The page of a web build, in a real browser: views, facts, a phone, the keyboard, the dark, what goes wrong."""

import gzip
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page
from tokenizers import Tokenizer
from torch import nn

from edgepress.compress.encoder import read_encoder
from edgepress.compress.site import site_of
from edgepress.devices.serve import HEADERS
from edgepress.export.formats import export
from edgepress.export.model import Model, Web
from edgepress.runtime.session import load

from .browser import changed, chromium, fact, ready, serving, wait_for_fact, watched
from .tiny_encoders import LONGEST, tokenizer, write_encoder

PAGE = Path(__file__).resolve().parent.parent / "export" / "page"
VIEWS = ["page.mjs", "facts.mjs", "image.mjs", "text.mjs", "form.mjs", "charts.mjs", "dom.mjs"]
SENTENCES = ["w1 w2 w3", "w1 unheard w4", " ".join(f"w{7 * i % 60}" for i in range(50))]  # the last is too long


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def encoder_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights: texts in, `sentence_embedding` out."""
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder(folder / "bert")
    return export(read_encoder(folder / "bert", None).model, "web", folder / "embeddings").path


@pytest.fixture
def form_site(artifact: Path, tmp_path: Path) -> Path:
    """`y = x W`: x float32[batch, 3], y float32[batch, 2]."""
    return site_of(artifact, tmp_path / "linear", Web()).path


def scores(page: Page) -> list[str]:
    """The bars as text: `7 43.1 %`."""
    return [text.replace("\n", " ") for text in page.locator(".bars li").all_inner_texts()]


def differs(page: Page, before: list[str], seconds: float = 20.0) -> bool:
    """True when the bars show something else, which they do at the next frame or a few later."""
    end = time.monotonic() + seconds
    while scores(page) == before and time.monotonic() < end:
        page.wait_for_timeout(50)
    return scores(page) != before


def test_the_policy_of_the_page_is_the_servers():
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', (PAGE / "index.html").read_text())
    assert policy == HEADERS["Content-Security-Policy"]


def test_the_scripts_are_small_and_set_no_text_as_markup():
    scripts = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in (".mjs", ".js")}
    assert sum(len(scripts[name]) for name in VIEWS) < 33_000
    assert sum(len(gzip.compress(content)) for content in scripts.values()) < 30_000
    for name, content in scripts.items():
        assert not re.search(
            rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://(?!www.w3.org/2000/svg)",
            content,
        ), name


def test_a_picture_model_shows_its_sample_first_and_classifies_what_is_drawn(browser: Browser, digits_site: Path):
    with serving(digits_site) as address, watched(browser, address) as page:
        ready(page, address)
        first = scores(page)
        assert len(first) == 5
        assert page.locator(".best").inner_text() == first[0].split()[0]
        pad = page.locator(".pad")
        assert pad.get_attribute("aria-label") == "A sample that came with the model"
        box = pad.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 150, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 150, box["y"] + 240, steps=8)
        page.mouse.up()
        assert pad.get_attribute("aria-label") == "Your drawing"
        assert differs(page, first)
        page.get_by_role("button", name="Clear").click()
        assert page.locator(".bars").count() == 0
        assert page.get_by_text("Draw something.").is_visible()


def test_the_sample_that_is_shown_has_the_classes_that_the_exported_file_gives(browser: Browser, digits_site: Path):
    from edgepress.runtime.golden import read_golden

    image = read_golden(digits_site / "golden.npz")[0].inputs["image"][:1]
    logits = load(digits_site / "model.onnx", threads=1)(image=image)["logits"][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    with serving(digits_site) as address, watched(browser, address) as page:
        found = dict(score.split(maxsplit=1) for score in scores(ready(page, address)))
    assert {int(name) for name in found} <= set(np.argsort(shares)[-6:].tolist())  # the sixth may be as likely
    for name, share in found.items():
        assert float(share.removesuffix(" %")) / 100 == pytest.approx(shares[int(name)], abs=1e-3)


def test_a_picture_can_be_opened_and_what_is_none_is_named(browser: Browser, digits_site: Path, tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("no picture")
    with serving(digits_site) as address, watched(browser, address) as page:
        ready(page, address)
        page.locator("#file").set_input_files(tmp_path / "white.png")
        page.locator(".pad[aria-label='white.png']").wait_for()
        page.locator("#file").set_input_files(tmp_path / "text.png")
        page.locator(".problem", has_text="text.png cannot be opened as a picture").wait_for()


def test_sentences_become_the_similarities_that_the_exported_file_gives(browser: Browser, encoder_site: Path):
    with serving(encoder_site) as address, watched(browser, address) as page:
        ready(page, address)
        page.get_by_role("button", name="Remove sentence 4").click()
        for i, sentence in enumerate(SENTENCES):
            page.get_by_label(f"Sentence {i + 1}", exact=True).fill(sentence)
        page.locator(f".heat th[title='{SENTENCES[2]}']").first.wait_for()
        cells = [float(text) for text in page.locator(".heat td[title]").all_inner_texts()]
        page.get_by_role("button", name="Add a sentence").click()
        page.keyboard.type("w7 w8")
        page.locator(".heat th[title='w7 w8']").first.wait_for()
        assert page.locator(".heat td[title]").count() == 16
    session, vectors = load(encoder_site / "model.onnx", threads=1), []
    words = Tokenizer.from_file(str(encoder_site / "tokenizer.json"))
    assert len(words.encode(SENTENCES[2]).ids) == LONGEST
    for sentence in SENTENCES:
        ids = np.array([words.encode(sentence).ids])
        vector = session(input_ids=ids, attention_mask=np.ones_like(ids))["sentence_embedding"][0]
        vectors.append(vector / np.linalg.norm(vector))
    assert np.abs(np.array(cells).reshape(3, 3) - np.array(vectors) @ np.array(vectors).T).max() < 0.006


def test_no_more_than_six_sentences_are_compared(browser: Browser, encoder_site: Path):
    with serving(encoder_site) as address, watched(browser, address) as page:
        add = ready(page, address).get_by_role("button", name="Add a sentence")
        add.click()
        add.click()
        assert add.is_disabled()
        page.get_by_role("button", name="Remove sentence 1").click()
        assert add.is_enabled()


def test_vectors_of_tokens_are_averaged_and_the_page_says_so(browser: Browser, tmp_path: Path):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(66, 4)
            with torch.no_grad():
                self.table.weight.copy_(torch.eye(4).repeat(17, 1)[:66])

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)

    model = Model(
        "tokens", Tokens().eval(), {"input_ids": torch.ones(2, 3, dtype=torch.int64)}, ("token_embeddings",),
        {"input_ids": {0: "batch", 1: "sequence"}}, {"tokenizer.json": tokenizer(0).to_str().encode()},
    )  # fmt: skip
    site = export(model, "web", tmp_path / "tokens").path
    with serving(site) as address, watched(browser, address) as page:
        ready(page, address)
        assert "here they are averaged" in page.locator("#view").inner_text()
        page.get_by_label("Sentence 1", exact=True).fill("w0")  # [CLS] w0 [SEP]: rows 2, 1 and 3 of the unit matrix
        page.get_by_label("Sentence 2", exact=True).fill("w3")  # rows 2, 0 and 3: two of three are shared
        page.locator(".heat th[title='w3']").first.wait_for()
        assert page.locator(".heat td[title='w0 – w3']").inner_text() == "0.67"


def test_a_classifier_of_texts_shows_its_labels(browser: Browser, tmp_path: Path):
    write_encoder(tmp_path / "bert", classes=3)
    site = export(read_encoder(tmp_path / "bert", None).model, "web", tmp_path / "classes").path
    with serving(site) as address, watched(browser, address) as page:
        assert {score.split()[0] for score in scores(ready(page, address))} == {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_any_other_model_has_a_form_of_its_ports(browser: Browser, form_site: Path):
    with serving(form_site) as address, watched(browser, address) as page:
        outputs = ready(page, address).locator(".outputs")
        assert "9, 12" in outputs.inner_text()  # ones, which are the golden sample
        page.get_by_label("Fill with").select_option("typed")
        page.get_by_label("x as JSON").fill("[[1, 0, 0], [0, 1, 0]]")
        page.get_by_role("button", name="Run").click()
        outputs.get_by_text("1, 2, 3, 4", exact=True).wait_for()
        assert "float32[2, 2]" in outputs.inner_text()
        page.get_by_label("Fill with").select_option("zeros")
        page.get_by_label("batch").fill("3")
        page.get_by_role("button", name="Run").click()
        outputs.get_by_text("0, 0, 0, 0, 0, 0", exact=True).wait_for()


@pytest.mark.parametrize(
    ("typed", "told"),
    [("[[1, 2", "x is no JSON"), ("[[1, 2]]", "expected x float32[batch, 3]")],
)
def test_a_form_says_what_a_port_would_take(browser: Browser, form_site: Path, typed: str, told: str):
    with serving(form_site) as address, watched(browser, address) as page:
        ready(page, address).get_by_label("Fill with").select_option("typed")
        page.get_by_label("x as JSON").fill(typed)
        page.get_by_role("button", name="Run").click()
        page.locator(".problem", has_text=told).wait_for()


def test_the_facts_say_what_the_model_costs_here(browser: Browser, digits_site: Path):
    with serving(digits_site) as address, watched(browser, address) as page:
        ready(page, address)
        wait_for_fact(page, "Offline", "ready")
        page.locator(".histogram svg rect").first.wait_for(state="attached")
        assert fact(page, "Model").startswith("311 kB")
        assert "first call" in fact(page, "Ready in")
        assert fact(page, "Runs on").startswith("wasm")
        assert "webgpu: the site was written without it" in fact(page, "Runs on")
        assert "1e-4 is allowed" in fact(page, "Checked")
        assert re.search(r"median .* ms, p90 .* ms of \d+ calls", page.locator(".latency").inner_text())
        page.get_by_role("button", name="Measure again").click()
        page.get_by_role("button", name="Measure again", disabled=False).wait_for()


@pytest.mark.parametrize("kind", ["digits_site", "encoder_site", "form_site"])
def test_a_phone_scrolls_down_only(browser: Browser, kind: str, request: pytest.FixtureRequest):
    phone = {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True}
    with serving(request.getfixturevalue(kind)) as address, watched(browser, address, **phone) as page:
        ready(page, address)
        page.locator(".histogram svg rect").first.wait_for(state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        heights = page.evaluate("[...document.querySelectorAll('button')].map((b) => b.getBoundingClientRect().height)")
        assert min(heights) >= 44  # what a thumb hits


def test_everything_is_reached_and_used_by_keyboard(browser: Browser, digits_site: Path):
    with serving(digits_site) as address, watched(browser, address) as page:
        ready(page, address)
        page.get_by_role("button", name="Measure again", disabled=False).wait_for()
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent || document.activeElement.type"))
            ring = page.evaluate(
                "getComputedStyle(document.activeElement.id === 'file' ? document.querySelector('.button')"
                " : document.activeElement).outlineStyle"
            )
            assert ring == "solid", reached[-1]
        assert reached == ["Example", "Clear", "file", "checkbox", "Measure again", "Manifest"]
        page.get_by_role("button", name="Clear").focus()
        page.keyboard.press("Enter")
        assert page.locator(".bars").count() == 0
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.locator(".bars").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable_in_the_light_and_in_the_dark(browser: Browser, encoder_site: Path, scheme: str):
    with serving(encoder_site) as address, watched(browser, address, color_scheme=scheme) as page:
        ready(page, address)
        ground, ink, quiet = page.evaluate("""() => {
            const colour = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
            return [colour("#facts", "backgroundColor"), colour("#facts dd", "color"), colour("#facts dt", "color")];
        }""")
        assert (luminance(ground) < 0.1) == (scheme == "dark")
        assert contrast(ground, ink) > 7
        assert contrast(ground, quiet) > 4.5  # WCAG 2, AA


def luminance(colour: str) -> float:
    """The relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    shares = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_browser_without_webassembly_is_told_so(browser: Browser, digits_site: Path):
    with serving(digits_site) as address, watched(browser, address) as page:
        page.add_init_script("delete globalThis.WebAssembly")
        card = ready(page, address).get_by_role("alert")
        assert "This browser is too old" in card.inner_text()
        assert "no WebAssembly with SIMD" in card.inner_text()
        assert page.get_by_role("button", name="Try again").is_visible()


def test_a_device_without_memory_is_told_so(browser: Browser, digits_site: Path, tmp_path: Path):
    script = b"export const env = { wasm: {} }; export const InferenceSession = { create() {"
    script += b' throw new RangeError("WebAssembly.Memory(): could not allocate memory"); } };'
    site = changed(digits_site, tmp_path / "site", {"ort.wasm.min.mjs": script})
    with serving(site) as address, watched(browser, address) as page:
        card = ready(page, address).get_by_role("alert")
        assert "There is not enough memory" in card.inner_text()
        assert "close other pages" in card.inner_text()


def test_a_script_that_breaks_is_a_message_and_not_a_blank_page(browser: Browser, digits_site: Path, tmp_path: Path):
    site = changed(
        digits_site, tmp_path / "site", {"image.mjs": b"export const fits = () => { throw new Error('hm'); };"}
    )
    with serving(site) as address, watched(browser, address) as page:
        card = ready(page, address).get_by_role("alert")
        assert "Something went wrong" in card.inner_text()
        page.get_by_text("Details").click()
        assert "hm" in page.locator(".error pre").inner_text()


def test_a_backend_that_nobody_knows_is_told_with_those_that_there_are(browser: Browser, digits_site: Path):
    with serving(digits_site) as address, watched(browser, address) as page:
        ready(page, address)
        told = page.evaluate(
            "async (base) => (await import(base + 'edgepress.mjs')).load(base, { backends: ['gpu'] })"
            ".catch(({ code, message }) => `${code}: ${message}`)",
            address,
        )
        assert told == "wrong-input: there is no backend 'gpu'; known: webgpu, wasm-threads, wasm"
