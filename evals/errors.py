"""What goes wrong while judging, told in one line.

An `InputError` is the user's to mend (exit status 2), a `MachineError` the machine's and an
`IncomparableError` the gate's refusal (both exit status 3).
"""

import difflib
from collections.abc import Iterable

from evals.text import NAME_CHARS, one_line


class InputError(Exception):
    """Something handed over cannot be used; the message is "where: what; what instead"."""


class RecordError(InputError):
    """A line of a records file cannot be used; the message begins with "file:line"."""


class CutOffError(RecordError):
    """The last line of a records file is broken, as by a writer that was killed."""


class UnusableRowError(Exception):
    """A row's fields make no task; the message says which, and why."""


class MachineError(Exception):
    """The machine lacks something; the message says what, and the remedy."""


class BenchmarkUnavailable(MachineError):  # noqa: N818 (states what is so, as sandbox does)
    """A benchmark's data is neither on this machine nor within its reach."""


class IncomparableError(Exception):
    """Two scores differ in more than the model; the message names the field."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean x?"` for the nearest known name, else as many of them as fit a line."""
    names = list(known)
    # What is longer is no misspelling, and would take long to compare.
    if len(name) <= NAME_CHARS and (close := difflib.get_close_matches(name, names, n=1)):
        return f"; did you mean {one_line(close[0])}?"
    shown = ", ".join(map(one_line, names[:6]))
    return f"; known: {shown}{', …' if len(names) > 6 else ''}"
