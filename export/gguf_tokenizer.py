"""tokenizer.json as GGUF's metadata: the vocabulary, its kind, and how llama.cpp must split text before it merges.

llama.cpp knows pre-tokenizers by name. The name follows from what tokenizer.json says of itself; one that is not known
is refused, for a wrong one degrades every answer in silence.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..runtime.errors import ModelError, UnsupportedError

# llama.cpp's kinds of token.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The patterns that text is split by -> llama.cpp's name for that.
PATTERNS: dict[tuple[str, ...], str] = {
    (_CASES + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_CASES + r"\p{N}" + _REST,): "qwen2",
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
}
# Those of them that llama.cpp looks a whole word up for, before it merges.
_WHOLE_WORDS = {"llama-bpe"}


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp tokenizes with: `model` is gpt2 (byte pairs), llama (sentencepiece) or bert (word pieces).

    `unicode` is a normal form (NFC) that the tokenizer brings text into and llama.cpp does not; empty for none.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    space_prefix: bool | None = None
    unicode: str = ""


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a folder's tokenizer.json, filled up to the `size` rows that the model's table has.

    Raises ModelError where there is none or where it has more tokens than rows, UnsupportedError for a tokenizer that
    llama.cpp would not follow.

    >>> read_vocabulary(Path("smollm"), 49152).pre
    'smollm'
    """
    path, coder = folder / "tokenizer.json", read_tokenizer(folder)
    raw = json.loads(path.read_text(encoding="utf-8"))
    by_id = {number: token for token, number in coder.get_vocab(with_added_tokens=True).items()}
    if max(by_id) >= size:
        raise ModelError(f"{path} has the token {max(by_id)}, the model's table {size} rows; bring those that fit")
    read = _READERS.get(raw["model"]["type"])
    if read is None:
        raise UnsupportedError(
            f"{path} is a {raw['model']['type']} tokenizer; BPE and WordPiece can be written as GGUF"
        )
    added = {token["id"]: token for token in raw["added_tokens"]}
    tokens = tuple(by_id.get(i, f"[PAD{i}]") for i in range(size))
    kinds = tuple(_kind(i, by_id, added) for i in range(size))
    return read(raw, coder, tokens, kinds)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises ModelError where there is none, or a damaged one."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library's own are plain ones
        raise ModelError(f"{path} cannot be read: {error}; expected a tokenizer that transformers saved") from error


def _kind(number: int, by_id: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if number not in by_id:
        return UNUSED
    if number in added:
        return CONTROL if added[number]["special"] else USER_DEFINED
    return NORMAL


def _byte_pairs(raw: Mapping[str, Any], coder: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    if raw["model"].get("byte_fallback"):
        return _sentencepiece(raw, tokens, kinds)
    pre = PATTERNS.get(patterns := _patterns(raw["pre_tokenizer"]))
    if pre is None:
        raise UnsupportedError(f"the pre-tokenizer {' then '.join(patterns) or 'none'} has no name in llama.cpp")
    if (pre in _WHOLE_WORDS) != bool(raw["model"].get("ignore_merges")):
        _refuse_unreachable(coder, tokens, kinds, pre)
    return Vocabulary("gpt2", pre, tuple(tokens), tuple(kinds), unicode=_normal_form(raw["normalizer"]))


def _patterns(pre: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What text is split by, in order: patterns, `digits` one by one, `bytes` by GPT-2's own pattern."""
    found: list[str] = []
    for step in [] if pre is None else pre.get("pretokenizers", [pre]):
        kind = step["type"]
        if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(step["pattern"].get("Regex", step["pattern"].get("String")))
        elif kind == "ByteLevel" and not step["add_prefix_space"]:
            found += ["bytes"] if step.get("use_regex", True) else []
        elif kind == "Digits" and step["individual_digits"]:
            found.append("digits")
        else:
            found.append(json.dumps(step))
    return tuple(found)


def _normal_form(normalizer: Mapping[str, Any] | None) -> str:
    if normalizer is None:
        return ""
    if normalizer["type"] in ("NFC", "NFD", "NFKC", "NFKD"):
        return str(normalizer["type"])
    raise UnsupportedError(f"the normalizer {normalizer['type']} before byte pairs has no counterpart in llama.cpp")


def _refuse_unreachable(coder: Tokenizer, tokens: Sequence[str], kinds: Sequence[int], pre: str) -> None:
    """Looking whole words up and merging give the same wherever merging reaches every token."""
    merging = json.loads(coder.to_str())
    merging["model"]["ignore_merges"] = False
    model = Tokenizer.from_str(json.dumps(merging)).model
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == NORMAL and len(model.tokenize(token)) != 1:
            raise UnsupportedError(f"no merges lead to the token {token!r}, and llama.cpp's {pre} treats such others")


def _sentencepiece(raw: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    """Byte pairs over `▁`: llama.cpp merges the pair whose result has the best score, and does not ask `merges`."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in raw["model"]["merges"]]
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    _refuse_missing_merges(tokens, {(left, right) for left, right in pairs}, rank)
    unknown = raw["model"].get("unk_token")
    scores, marked = [], []
    for token, kind in zip(tokens, kinds, strict=True):
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        marked.append(UNKNOWN if token == unknown else BYTE if is_byte else kind)
        scores.append(-float(rank.get(token, len(rank))))
    prefix = _space_prefix(raw["normalizer"], raw["pre_tokenizer"])
    return Vocabulary("llama", "default", tuple(tokens), tuple(marked), tuple(scores), space_prefix=prefix)


def _refuse_missing_merges(tokens: Sequence[str], pairs: set[tuple[str, str]], rank: Mapping[str, int]) -> None:
    known = set(tokens)
    for token in rank:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known and (left, right) not in pairs:
                raise UnsupportedError(
                    f"its tokenizer does not merge {left!r} and {right!r} into {token!r}, llama.cpp would"
                )


def _space_prefix(normalizer: Mapping[str, Any] | None, pre: Mapping[str, Any] | None) -> bool:
    """Whether `▁` is put before a text. Raises UnsupportedError for steps that llama.cpp has not."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    prepends, spaces = False, False
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == "▁":
            prepends = True
        elif step["type"] == "Replace" and step["content"] == "▁" and step["pattern"] == {"String": " "}:
            spaces = True
        else:
            raise UnsupportedError(f"the normalizer {step['type']} has no counterpart in llama.cpp's sentencepiece")
    if pre is not None and pre["type"] == "Metaspace" and not pre.get("split", True):
        spaces, prepends = True, pre["prepend_scheme"] != "never"
    elif pre is not None and pre != {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                                     "invert": False}:  # fmt: skip
        raise UnsupportedError(f"the pre-tokenizer {pre['type']} has no counterpart in llama.cpp's sentencepiece")
    if not spaces:
        raise UnsupportedError("its tokenizer does not write spaces as ▁, as llama.cpp's sentencepiece does")
    return prepends


def _word_pieces(raw: Mapping[str, Any], coder: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    """`##x` becomes `x`, and `x` becomes `▁x`, as llama.cpp looks them up."""
    normalizer, prefix = raw["normalizer"] or {}, raw["model"]["continuing_subword_prefix"]
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("handle_chinese_chars"):
        raise UnsupportedError("its tokenizer does not normalize text as BERT does; llama.cpp's word pieces would")
    phantom = [
        token if kind == CONTROL else token.removeprefix(prefix) if token.startswith(prefix) else "▁" + token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return Vocabulary("bert", "default", tuple(phantom), tuple(kinds))


_READERS = {"BPE": _byte_pairs, "WordPiece": _word_pieces}
