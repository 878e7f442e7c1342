"""Chat: a conversation as the text that a model was trained on, by the Jinja template that its file holds.

The template is somebody's program: it runs in Jinja's sandbox, which gives it the messages and nothing else.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from .errors import MissingExtra, UsageError


def render(template: str, messages: Sequence[Mapping[str, str]], *, bos: str = "", eos: str = "") -> str:
    """The conversation up to where the model answers. Raises UsageError where it cannot be written.

    >>> render("{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}", [{"role": "user", "content": "Hi"}])
    'user: Hi '
    """
    _check(messages)
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("jinja2", "gguf") from error
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    sandbox.filters["tojson"] = _json
    told: dict[str, Any] = {"messages": [dict(m) for m in messages], "add_generation_prompt": True}
    try:
        return sandbox.from_string(template).render(told | {"bos_token": bos, "eos_token": eos})
    except _Refused as error:
        raise UsageError(f"the model's chat template refuses these messages: {error}") from error
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UsageError(f"the model's chat template cannot be used: {lines[0]}") from error


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """What a template says of messages that it does not take."""


def _refuse(text: str) -> NoReturn:
    raise _Refused(" ".join(str(text).split()))


def _json(value: Any, indent: int | None = None) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _check(messages: Sequence[Mapping[str, str]]) -> None:
    if isinstance(messages, str | Mapping) or not messages:
        raise UsageError("messages is no list of messages; expected [{'role': 'user', 'content': …}, …]")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise UsageError(f"message {index} is {message!r:.60}; expected {{'role': 'user', 'content': 'Hi'}}")
