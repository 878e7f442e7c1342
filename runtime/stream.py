"""A stream of bytes becomes text, piece by piece: never half a character, and nothing from a stop string on."""

import codecs
from collections.abc import Iterable, Iterator, Sequence


def characters(pieces: Iterable[bytes]) -> Iterator[str]:
    """The text of UTF-8 in pieces; what is no UTF-8, or is cut at the end, becomes U+FFFD.

    >>> list(characters([b"caf", b"\\xc3", b"\\xa9"]))
    ['caf', 'é']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def until(texts: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The texts up to where one of `stops` begins. What may yet become one is held back till it is known.

    >>> list(until(["a", "b#", "#c"], ["##"]))
    ['a', 'b']
    """
    held = ""
    for text in texts:
        held += text
        places = [at for stop in stops if (at := held.find(stop)) >= 0]
        if places:
            if held[: min(places)]:
                yield held[: min(places)]
            return
        ready = len(held) - max((_begun(held, stop) for stop in stops), default=0)
        if ready:
            yield held[:ready]
        held = held[ready:]
    if held:
        yield held


def _begun(text: str, stop: str) -> int:
    """How much of the text's end is the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
