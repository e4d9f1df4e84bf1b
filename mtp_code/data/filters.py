"""Which documents are kept: exact duplicates and benchmark text are not."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

# A document that shares this many words in a row with a benchmark task contains its text. The
# standard library shares ten at most with any task of HumanEval or MBPP.
MIN_RUN_WORDS: Final = 13
# ...if enough of them differ: `x x x x x x x` is nobody's solution.
MIN_DISTINCT_WORDS: Final = 7
# Runs from this length count towards how much of a task a document covers with interruptions, as
# a copy with comments or changed lines does.
GRAM_WORDS: Final = 6
COVERED_SHARE: Final = 0.5

# Words only: quoting, layout, operators and numbers may differ in a copy, and lists of numbers
# are alike everywhere.
_WORD: Final = re.compile(r"[^\W\d]\w*")


class Reference(NamedTuple):
    """A benchmark's task: its prompt and reference solution, joined into one program."""

    name: str
    text: str


class Contamination:
    """Finds the text of benchmark tasks in documents."""

    def __init__(self, references: Iterable[Reference]) -> None:
        self._copies: dict[bytes, str] = {}
        self._names: list[str] = []
        self._words: list[list[str]] = []
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, reference in enumerate(references):
            self._copies[content_digest(reference.text)] = reference.name
            words = _words(reference.text)
            self._names.append(reference.name)
            self._words.append(words)
            for start, gram in enumerate(_grams(words)):
                self._places[gram].append((number, start))

    def copied_task(self, digest: bytes) -> str | None:
        """The task whose whole text has this `content_digest`."""
        return self._copies.get(digest)

    def contained_task(self, text: str) -> str | None:
        """A task that shares a long run of words with the text, or is half covered by it."""
        covered: dict[int, set[int]] = defaultdict(set)
        runs: dict[tuple[int, int], int] = {}
        for gram in _grams(_words(text)):
            longer: dict[tuple[int, int], int] = {}
            for number, start in self._places.get(gram, ()):
                run = runs.get((number, start - 1), GRAM_WORDS - 1) + 1
                longer[number, start] = run
                end = start + GRAM_WORDS
                covered[number].update(range(start, end))
                if self._is_long(number, range(end - run, end)):
                    return self._names[number]
            runs = longer
        for number, places in covered.items():
            if self._is_half(number, places):
                return self._names[number]
        return None

    def _is_long(self, number: int, run: range) -> bool:
        words = self._words[number]
        enough = min(MIN_RUN_WORDS, len(words))
        return len(run) >= enough and len(set(words[run.start : run.stop])) >= MIN_DISTINCT_WORDS

    def _is_half(self, number: int, places: set[int]) -> bool:
        words = self._words[number]
        return (
            len(places) >= max(MIN_RUN_WORDS, COVERED_SHARE * len(words))
            and len({words[place] for place in places}) >= MIN_DISTINCT_WORDS
        )


def content_digest(text: str) -> bytes:
    """Equal for texts that differ only in line ends, trailing blanks, and lines around them."""
    lines = (line.rstrip() for line in text.splitlines())
    return hashlib.blake2b(
        "\n".join(lines).strip("\n").encode("utf-8", errors="surrogatepass"), digest_size=16
    ).digest()


def is_held_out(digest: bytes, validation_share: float) -> bool:
    """Whether the document with this digest belongs to the validation split.

    It depends on nothing else, so a document stays in its split when others come or go.
    """
    return int.from_bytes(digest[:8], "big") < validation_share * 2**64


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False)
