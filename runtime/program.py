"""Program: how the runtime's programs answer, wherever a link runs them: JSON on stdout, or one line on stderr."""

import sys
from collections.abc import Callable

from .errors import EdgepressError


def answer(say: Callable[[], str]) -> int:
    """Print what `say` gives. Returns the exit code: 0, or 2 with one line on stderr where it raises an EdgepressError.

    >>> sys.exit(answer(lambda: json.dumps(about())))
    """
    try:
        text = say()
    except EdgepressError as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return 0
