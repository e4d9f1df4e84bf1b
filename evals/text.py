"""Foreign text, such as a task's id or a program's output, made fit to be shown."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_CHARS: Final = 80  # of a name that somebody else chose: enough to find it by

# Controls, formats such as bidirectional marks, halves of surrogate pairs, ends of lines.
_HIDING: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_READ_FOR_EACH: Final = 8  # what of a long text is looked at, for each character to be shown


def visible(text: str) -> str:
    """The text with every character that could hide or reorder others spelled out.

    Lone surrogates could not be written as UTF-8; controls and bidirectional marks would make
    a page or a terminal show something else than what is there (CVE-2021-42574).
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _HIDING
        else repr(character)[1:-1]
        for character in re.sub("\r\n?", "\n", text)
    )


def quoted(value: object) -> str:
    """As Python spells it, on a line that can be read."""
    return one_line(repr(value))


def one_line(text: str, max_chars: int = NAME_CHARS) -> str:
    """The text on a line of no more characters, whatever its length: megabytes take no time."""
    looked_at = text[: _READ_FOR_EACH * max_chars]
    line = " ".join(visible(looked_at).split())
    if len(line) > max_chars:
        return line[: max_chars - 1] + "…"
    return line if looked_at == text else f"{line[: max_chars - 1]}…"
