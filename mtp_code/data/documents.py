"""What corpora yield."""

from typing import NamedTuple


class Document(NamedTuple):
    """`name` says where in its source the text stands: a path, or a file and line."""

    name: str
    text: str
    licences: tuple[str, ...] = ()


class Skipped(NamedTuple):
    """What a corpus could not use."""

    name: str
    reason: str
