"""Process: a program that runs here, what it said, and no process left behind, whatever happens."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

Feed = Callable[[IO[bytes]], None]

_RUNNING: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit code (negative: the signal that killed it), stdout and stderr."""

    code: int
    output: str
    errors: str


def call(
    command: Sequence[str],
    timeout: float | None,
    *,
    feed: Feed | None = None,
    hold: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Done:
    """Run a program to its end, at most `timeout` seconds.

    `feed` writes its stdin, from a thread; with `hold` stdin stays open and empty until the program ends, so that one
    on another machine can tell that we are gone; else it has none. Raises TimeoutExpired, and FileNotFoundError where
    there is no such program; it runs no longer then, nor after Ctrl-C or `end_all`.

    >>> call(["echo", "hello"], 10).output
    'hello\\n'
    """
    read, write = os.pipe() if feed or hold else (None, None)
    pipe = subprocess.PIPE
    feeder = None
    try:
        with (
            _holding_ctrl_c() as release,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL if read is None else read, stdout=pipe, stderr=pipe, text=True,
                errors="replace", env=environment,
            ) as process,
        ):  # fmt: skip
            _RUNNING.add(process)
            try:
                release()
                if feed is not None and write is not None and read is not None:
                    os.close(read)  # or a program that ends early would leave the feeder waiting for a reader
                    feeder, read, write = _feeding(feed, write), None, None
                output, errors = process.communicate(timeout=timeout)
            except BaseException:  # a timeout, Ctrl-C: no process is left behind
                process.kill()
                process.wait()  # on Ctrl-C the end of `with` waits for a quarter of a second only
                raise
            finally:
                _RUNNING.discard(process)
    finally:
        for end in (read, write):
            if end is not None:
                os.close(end)
        if feeder is not None:
            feeder.join()
    return Done(process.returncode, output, errors)


def end_all() -> None:
    """End every program that `call` runs at the moment, in whatever thread."""
    for process in tuple(_RUNNING):
        process.kill()


def last_line(done: Done) -> str:
    """The last line on stderr, or the exit code of a program that said nothing."""
    lines = done.errors.strip().splitlines()
    return lines[-1] if lines else f"the program ended with exit code {done.code} and said nothing"


def _feeding(feed: Feed, write: int) -> threading.Thread:
    def work() -> None:
        try:
            with os.fdopen(write, "wb") as stream:
                feed(stream)
        except BrokenPipeError:
            pass  # the program ended early: its exit code tells

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@contextmanager
def _holding_ctrl_c() -> Iterator[Callable[[], None]]:
    """Until `release` is called Ctrl-C waits: it must not come while a process is started that nobody knows of yet."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number)) or signal.default_int_handler

    def release() -> None:
        signal.signal(signal.SIGINT, usual)
        if pressed and usual is not signal.SIG_IGN:
            raise KeyboardInterrupt

    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, usual)
