"""What a text encoder is trained on here: text that every machine with Python has, none of the kinds it is judged on.

Three sources, because training on one kind of text fits that kind: docstrings of the standard library and of packages;
remarks and strings of the same files; and words of the vocabulary in no order, so that the rare ones are met too.
Remarks that speak like a licence are left out: licences are what it is judged on.
"""

import ast
import importlib.util
import json
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from _common import minilm, sentences

PACKAGES = ("torch", "numpy", "sklearn", "transformers", "scipy")
LINES = 40_000
DOCSTRINGS, REMARKS = 24_000, 10_000  # of the mixed lines; the rest are words in no order

_LENGTHS = range(20, 400)  # characters
_LICENCE = ("licen", "copyright", "warrant", "redistribut", "permission")


def mixed() -> list[str]:
    """All three kinds, shuffled, always the same lines in the same environment."""
    lines = docstrings()[:DOCSTRINGS] + remarks()[:REMARKS]
    lines += words(LINES - len(lines))
    random.Random(5).shuffle(lines)
    return lines


def docstrings() -> list[str]:
    """Sentences from docstrings, each once, in a fixed order."""
    return _shuffled(_gathered()[0])[:LINES]


def remarks() -> list[str]:
    """Sentences from comments and from the strings in the code."""
    return _shuffled({line for line in _gathered()[1] if not any(word in line.lower() for word in _LICENCE)})


def words(count: int) -> list[str]:
    """Lines of 4 to 60 words of the model's vocabulary, in no order."""
    vocabulary = json.loads((minilm() / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    known, chance = [word for word in vocabulary if word.isalpha() and len(word) > 1], random.Random(1)
    return [" ".join(chance.choices(known, k=chance.randint(4, 60))) + "." for _ in range(count)]


def _documented(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from sentences(ast.get_docstring(node) or "", _LENGTHS)


def _commented(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        line = line.strip()
        if line.startswith("#"):
            block.append(line.lstrip("#").strip())
        elif block:
            yield from sentences("\n".join(block), _LENGTHS)
            block = []


def _quoted(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) in _LENGTHS:
            line = " ".join(node.value.split())
            line += "." if line[-1:].isalpha() else ""
            yield from (sentence for sentence in sentences(line, _LENGTHS) if " " in sentence)


def _shuffled(found: set[str]) -> list[str]:
    lines = sorted(found)
    random.Random(0).shuffle(lines)
    return lines


@cache
def _gathered() -> tuple[set[str], set[str]]:
    """What docstrings say, and what comments and strings do; each file is parsed once and forgotten."""
    documented: set[str] = set()
    remarked: set[str] = set()
    for tree, text in _sources():
        documented.update(_documented(tree))
        remarked.update(_commented(text), _quoted(tree))
    return documented, remarked


def _sources() -> Iterator[tuple[ast.AST, str]]:
    site, library = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))
    files = [path for path in library.rglob("*.py") if site not in path.parents]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        files += [] if spec is None or spec.origin is None else Path(spec.origin).parent.rglob("*.py")
    for path in sorted(files):
        try:
            text = path.read_text(encoding="utf-8")
            yield ast.parse(text), text
        except (SyntaxError, UnicodeDecodeError):
            continue  # files that test Python's own parser
