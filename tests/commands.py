"""What the tests of the command line share: a command run in this process, and what it said."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgepress.compress.cli import main

EDGEPRESS = Path(sys.executable).with_name("edgepress")  # the console script of this environment
# A recipe of one pass, which pays.
SMALL = '[[pass]]\nname = "weight_only"\nbits = 8\n'


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """stdout as JSON in the standard's sense: no NaN, no Infinity."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(name))

    @property
    def complaint(self) -> str:
        """The one line on stderr that follows the progress; a traceback would be more."""
        line = self.err.splitlines()[-1]
        assert self.err.count("edgepress: ") == 1, self.err
        assert "Traceback" not in self.err
        return line.removeprefix("edgepress: ")


def edgepress(*arguments: object) -> Said:
    """The command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())
