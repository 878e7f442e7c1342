"""Program: how the runtime's programs answer, wherever a link runs them: a line of JSON on stdout, or one on stderr."""

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


def answered(printed: str) -> str:
    """What such a program answered, of all that it printed: the last line. A vendor's library may print before.

    >>> answered("Starting stage: Graph Preparation\\n[1]\\n")
    '[1]'
    """
    return printed.strip().rpartition("\n")[2]
