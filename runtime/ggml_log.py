"""llama.cpp's log: kept in memory instead of on the terminal, for the reason of a failure is told only there."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lines: list[str] = []
_callback: Any = None  # ctypes forgets a callback that nobody holds


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collects the pieces of log that llama.cpp writes meanwhile; nothing reaches the terminal, then or later.

    The log is one for the process: two threads that load models at once read each other's.
    """
    _silence()
    _lines.clear()
    yield _lines


def reason(lines: list[str], otherwise: str) -> str:
    """What went wrong, of the last lines of the log, as one line."""
    text = [line.strip() for line in "".join(lines).splitlines()]
    told = [line for line in text if any(word in line.lower() for word in ("error", "fail", "invalid", "missing"))]
    return told[-1] if told else otherwise


def _silence() -> None:
    global _callback
    if _callback is None:
        import llama_cpp

        def keep(level: int, text: bytes, data: ctypes.c_void_p) -> None:
            _lines.append(text.decode("utf-8", errors="replace"))

        _callback = llama_cpp.llama_log_callback(keep)
        llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
