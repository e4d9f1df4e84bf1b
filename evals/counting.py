"""How many of a + task's checks hold for a program that fails some: a graded measure.

The verdict is that of the checks as they stand, which end at the first that does not hold. Only
then are these run, which go on to the last one, count, and always fail. (Of other tasks the sandbox
counts the assertions.)
"""

from __future__ import annotations

import re
from typing import Final

# A name in the checks' module, where a benchmark has names of its own.
COUNTS: Final = "__mtp_code_counts__"
_MOST_DIGITS: Final = 9


def telling(counts: str) -> str:
    """A statement that fails, and by that tells the two numbers of `counts`."""
    return f'assert False, f"{{{counts}[0]}} of {{{counts}[1]}} checks hold"'


_TOLD: Final = re.compile(
    rf"(\d{{1,{_MOST_DIGITS}}}) of (\d{{1,{_MOST_DIGITS}}}) checks hold; "
    rf"checks, line \d+: {re.escape(telling(COUNTS))}"
)


def counts_told(detail: str) -> tuple[int, int] | None:
    """The checks that held, and all: as the detail of checks that failed tells it.

    The detail of anything but an assertion that failed may begin with the program's own words.
    """
    match = _TOLD.match(detail)
    held, told = (int(match[1]), int(match[2])) if match else (0, 0)
    return (held, told) if held <= told > 0 else None
