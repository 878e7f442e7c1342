"""Docs show only what runs: every block of every page, top to bottom, in a folder of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .tiny_decoders import write_decoder

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
# Pages that go on from what another one leaves.
AFTER = {
    "parity": ("command-line",),
    "runtime": ("command-line",),
    "report": ("command-line",),
    "measuring": ("command-line",),
    "devices": ("command-line",),
    "onnx-files": ("command-line",),
    "placement": ("command-line",),
}

_BLOCK = re.compile(
    r"^(?:<!-- exit (?P<exit>\d+) -->\n)?```(?P<kind>\w+)(?: file=(?P<file>\S+))?\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: shell or Python to run, or (`file`) a file to write. Python goes on from the page's earlier."""

    kind: str
    code: str
    file: str | None
    exit: int


def blocks(page: str) -> Iterator[Block]:
    python = ""
    for match in _BLOCK.finditer((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        code = match["code"]
        if match["kind"] == "python" and not match["file"]:
            code = python = python + code
        yield Block(match["kind"], code, match["file"], int(match["exit"] or 0))


def run(block: Block, folder: Path) -> None:
    if block.file is not None:
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.code, encoding="utf-8")
        return
    programs = {"sh": ("bash", "-euc", block.code), "python": (sys.executable, "-W", "error", "-c", block.code)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        programs[block.kind], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == block.exit, f"{block.code}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory, digits_task: Path, minilm: Path, llama, minilm_gguf: Path):
    """Walk a page in the folder that belongs to it and to the pages it goes on from; each page is walked once."""
    folders: dict[str, Path] = {}
    files = (llama[0], minilm_gguf)

    def walk(page: str) -> Path:
        if page not in folders:
            before = [walk(other) for other in AFTER.get(page, ())]
            folders[page] = before[0] if before else _started(tmp_path_factory.mktemp(page), digits_task, minilm, files)
            for block in blocks(page):
                run(block, folders[page])
        return folders[page]

    return walk


def _started(folder: Path, digits_task: Path, minilm: Path, files: Sequence[Path]) -> Path:
    """What a reader has: the sample, trained already, an encoder's and a decoder's folder, texts, GGUF files."""
    sample = folder / "samples" / "digits" / "task.py"
    sample.parent.mkdir(parents=True)
    sample.write_text(digits_task.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "all-MiniLM-L6-v2").symlink_to(minilm, target_is_directory=True)
    write_decoder(folder / "tiny-llama")
    for file in files:
        (folder / file.name).symlink_to(file)
    lines = (Path(os.__file__).parent / "argparse.py").read_text(encoding="utf-8").splitlines()
    texts = [line.strip(" #") for line in lines if line.count(" ") > 12 and line.strip().startswith("#")]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    return folder


@pytest.mark.timeout(1800)  # minutes of commands, beside other tests
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_does_what_the_page_says(page: str, walked):
    assert any(True for _ in blocks(page)), "a page without an example"
    walked(page)


def test_the_readme_names_every_page_and_every_link_leads_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"(docs/{page}.md)" not in readme] == []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_jobs_for_a_build_run_what_the_page_runs():
    import yaml

    found = list(blocks("report"))
    shell = "".join(block.code for block in found if block.kind == "sh")
    github, gitlab = (yaml.safe_load(block.code) for block in found if block.kind == "yaml")
    steps = [step["run"] for step in github["jobs"]["budget"]["steps"] if "run" in step]
    for lines in (steps, gitlab["budget"]["script"]):
        gates = [line.strip() for line in lines if line.startswith("edgepress")]
        assert gates
        assert all(line in shell for line in gates)


def test_every_pass_and_every_setting_stands_in_the_page_on_recipes():
    from dataclasses import fields
    from importlib import import_module

    from edgepress.compress.recipe import PASSES, recipe_names

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, (module, attribute) in PASSES.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}`")), "")
        settings = {field.name for field in fields(getattr(import_module(f"edgepress.compress.{module}"), attribute))}
        assert settings <= set(re.findall(r"`(\w+)`", row)), f"the row of {name}"
    assert recipe_names()
