"""A language model on the command line: a continuation as it streams, or a conversation in the terminal."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..runtime.errors import EngineError, UsageError
from ..runtime.language import LanguageModel
from ..runtime.session import LoadedModel

_HELP = "Ctrl-C stops an answer, Ctrl-D leaves."


@dataclass(frozen=True)
class Wishes:
    """What was asked for on the command line; None leaves it to the model."""

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    schema: Path | None = None

    @property
    def named(self) -> list[str]:
        """The options that were given."""
        values = {"max-tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return [f"--{name}" for name, value in (values | {"json-schema": self.schema}).items() if value is not None]

    def settings(self) -> dict[str, Any]:
        """As `generate` takes them. Raises UsageError for a file that is no JSON schema."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature or 0.0,
            "seed": self.seed or 0,
            "schema": None if self.schema is None else _read_schema(self.schema),
        }


def talks(model: LoadedModel, wishes: Wishes, *, prompt: str | None, others: bool) -> bool:
    """Write or chat, where that is what was asked for; False where the model is to run on `others`, its inputs.

    Raises UsageError for wishes that only a language model can fulfil, and for two things at once.
    """
    named = [*(["--prompt"] if prompt is not None else []), *wishes.named]
    if named and others:
        raise UsageError(f"{named[0]} writes text, and does not go with --input, --text, --golden, --save and --json")
    writes = isinstance(model, LanguageModel) and not model.engine.embeds
    if named and not writes:
        raise UsageError(f"{named[0]} is for models that write text; {model.artifact.path} gives {model.outputs[0]}")
    if others or not isinstance(model, LanguageModel) or not writes:
        return False
    if prompt is not None:
        write(model, prompt, wishes)
    elif sys.stdin.isatty():
        converse(model, wishes)
    else:
        raise UsageError("there is no terminal to chat in; give --prompt TEXT")
    return True


def outputs(model: LoadedModel, text: str) -> dict[str, np.ndarray] | None:
    """What a text gives where the file has its own tokenizer: an embedding; None where it is not in the file."""
    return {model.outputs[0].name: model.embed([text])} if isinstance(model, LanguageModel) else None


def write(model: LanguageModel, prompt: str, wishes: Wishes) -> None:
    """Print the continuation of `prompt` as it comes."""
    for piece in model.generate(prompt, **wishes.settings()):
        _show(piece)
    _show("\n")


def converse(model: LanguageModel, wishes: Wishes) -> None:
    """Ask and answer until Ctrl-D. Raises UsageError where the file has no chat template."""
    if not model.chats:
        raise UsageError(f"{model.artifact.path} cannot chat: it has no chat template; give --prompt TEXT")
    settings = wishes.settings()
    click.echo(f"{model.artifact.name}, {model.context} tokens of context. {_HELP}", err=True)
    messages: list[dict[str, str]] = []
    with _ctrl_c() as answering:
        while (question := _ask()) is not None:
            if not question.strip():
                continue
            messages.append({"role": "user", "content": question})
            answering.set()
            try:
                answer = _answered(model, messages, settings, answering)
            except (UsageError, EngineError) as error:
                click.echo(f"\n{error}; the conversation begins anew", err=True)
                messages = []
                continue
            finally:
                answering.clear()
            messages.append({"role": "assistant", "content": answer})


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """While the event is set, Ctrl-C clears it; else it says what it does: pressed twice, it ends no conversation."""
    answering = threading.Event()

    def pressed(*_: object) -> None:
        if not answering.is_set():
            click.echo(f"\n{_HELP}", err=True)
            _show("> ")
        answering.clear()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield answering
    finally:
        signal.signal(signal.SIGINT, before)


def _ask() -> str | None:
    """A line of the user; None where there is no more."""
    try:
        return input("> ")
    except EOFError:
        _show("\n")
        return None


def _answered(
    model: LanguageModel, messages: list[dict[str, str]], settings: dict[str, Any], answering: threading.Event
) -> str:
    """What the model says, shown as it comes, for as long as `answering` is set; what was said stays said."""
    said = ""
    for piece in model.chat(messages, **settings):
        said += piece
        _show(piece)
        if not answering.is_set():
            break
    _show("\n")
    return said


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--json-schema {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json-schema {path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--json-schema {path} holds a {type(found).__name__}; expected a JSON schema: an object")
    return found


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
