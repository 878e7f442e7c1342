"""A trial in a process of its own: llama.cpp ends the process on some damaged or hostile files, instead of an error.

    python -m edgepress.runtime.ggml_trial model.gguf

opens the file, reads a text and computes a token. What it dies of there is an EngineError here.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import EdgepressError, EngineError

_SECONDS = 300
# Letters, digits, marks, and characters that few vocabularies have: each takes another way through a tokenizer.
_TEXT = "Hello there, it's 2024!\n\t  \x00\x7f é 你好 \U0001f600 ​" + "".join(map(chr, range(32, 127)))


def try_apart(path: Path) -> None:
    """Raise EngineError where llama.cpp refuses the file, dies of it, or does not come to an end."""
    from .llama import library

    library()  # that it is missing is told from here
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "GGML_NO_BACKTRACE": "1"}
    command = (sys.executable, "-W", "ignore", "-m", "edgepress.runtime.ggml_trial", str(path.resolve()))
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"llama.cpp takes more than {_SECONDS} s to open {path}; it may be made to harm") from error
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if done.returncode == 2 and lines:
        raise EngineError(lines[-1].replace(str(path.resolve()), str(path)))
    died = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    why = next((line for line in lines if "GGML_ASSERT" in line or "what():" in line), "it says nothing")
    raise EngineError(f"llama.cpp dies of {path} ({died}: {why}); it is damaged or made to harm: get it anew")


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 2 with one line on stderr."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from .ggml import start

    (path,) = arguments
    try:
        engine = start(Path(path), threads=1)
        tokens = [0]
        if engine.file.has_tokenizer:
            tokens = engine.model.tokens(_TEXT)[:8] or tokens
            engine.model.text(tokens, special=True)
        ids = np.array([tokens[: engine.model.trained_context]], np.int64)
        engine.run({port.name: ids if port.name == "input_ids" else np.ones_like(ids) for port in engine.inputs})
    except EdgepressError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
