"""Benchmark text in training documents: found whole or in part, as it stands or under other names.

Two readings of a document are compared with those of each task. Its *words* show prompts, comments
and code that was copied as it stands. The tokens of its *code* show solutions whose names, layout,
comments and docstrings were changed. Lists of numbers look alike everywhere and make no words, and
a few tokens of code, too, are anybody's; so what decides is the longest run in common, and how much
of a task a document covers.
"""

import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtp_code.data.filters import content_digest
from mtp_code.data.lexing import BORDER, Hashes, Lexed, code_tokens, grams, may_say_types, words

# A document that shares this many words in a row with a task contains its text. The standard
# library shares ten at most with any task of HumanEval or MBPP.
MIN_RUN_WORDS: Final = 13
# ...if enough of them differ, single letters aside: `x x x x x x x` is nobody's solution.
MIN_DISTINCT_WORDS: Final = 7
# Runs from this length count towards how much of a task a document covers with interruptions, as
# a copy with comments or changed lines does.
GRAM_WORDS: Final = 6
COVERED_WORDS: Final = 0.5

# Code without its names is much more alike. Only tasks of at least so many tokens are looked for,
# and most of each must be there, within a stretch not much longer than the task. Of a short one all
# but nothing, and with the same numbers: nine tenths of a loop over a list is any loop.
GRAM_TOKENS: Final = 9
# A list of strings is like any other.
MIN_DISTINCT_IN_GRAM: Final = 3
# A task that is mostly such lists is looked for by its words alone.
TELLING_SHARE: Final = 0.5
LONG_TOKENS: Final = 30
COVERED_TOKENS: Final = 0.95
COVERED_LONG_TOKENS: Final = 0.8
STRETCH: Final = 2

_BATCH_BYTES: Final = 1 << 19  # what numpy works on stays in a core's cache
_TABLE_BITS: Final = 21
_GRAM_BITS: Final = (1 << GRAM_TOKENS) - 1


class Reference(NamedTuple):
    """A benchmark's task: its prompt and reference solution, joined into one program."""

    name: str
    text: str


class Contamination:
    """Finds the text of benchmark tasks in documents."""

    def __init__(self, references: Iterable[Reference]) -> None:
        references = list(references)
        texts = [reference.text.encode("utf-8", errors="replace") for reference in references]
        self._copies = {content_digest(one.text): one.name for one in references}
        self._names = [reference.name for reference in references]
        self._words = _Reading(texts, words, GRAM_WORDS)
        self._code = _Reading(texts, code_tokens, GRAM_TOKENS)
        # Types may have been added, or taken away; where they were not, they tell more.
        self._typed_code = _Reading(texts, partial(code_tokens, keep_types=True), GRAM_TOKENS)
        self._with_numbers = {
            reading: _Reading(texts, partial(reading.lex, keep_numbers=True), GRAM_TOKENS)
            for reading in (self._code, self._typed_code)
        }

    def copied_task(self, digest: bytes) -> str | None:
        """The task whose whole text has this `content_digest`."""
        return self._copies.get(digest)

    def contained_tasks(self, texts: Sequence[bytes]) -> list[str | None]:
        """For each document a task that it contains, if any.

        It contains a task if it has a long run of its words, or words of half of it; or nearly all
        of its code, whatever its names are, close together.
        """
        found: list[str | None] = [None] * len(texts)
        for begin, end in _batches(texts):
            batch = texts[begin:end]
            for document, matches in self._words.matches(batch).items():
                found[begin + document] = self._first(matches, self._has_words)
            for reading, documents in (
                (self._code, range(len(batch))),
                (self._typed_code, [i for i, text in enumerate(batch) if may_say_types(text)]),
            ):
                for place, matches in reading.matches([batch[i] for i in documents]).items():
                    document = documents[place]
                    if found[begin + document] is None:
                        has_code = partial(self._has_code, reading=reading, text=batch[document])
                        found[begin + document] = self._first(matches, has_code)
        return found

    def _first(
        self, matches: "dict[int, Matches]", decide: "Callable[[int, Matches], bool]"
    ) -> str | None:
        return next(
            (self._names[task] for task, found in matches.items() if decide(task, found)), None
        )

    def _has_words(self, number: int, matches: "Matches") -> bool:
        """Whether there is a long run of the task's words, or half of it in shorter ones."""
        task = self._words.tasks[number]
        enough = min(MIN_RUN_WORDS, len(task))
        runs: dict[tuple[int, int], int] = {}
        covered: set[int] = set()
        for place, start in matches:
            run = runs.get((place - 1, start - 1), GRAM_WORDS - 1) + 1
            runs[place, start] = run
            end = start + GRAM_WORDS
            covered.update(range(start, end))
            if run >= enough and _num_distinct_words(task[end - run : end]) >= MIN_DISTINCT_WORDS:
                return True
        return (
            len(covered) >= max(MIN_RUN_WORDS, COVERED_WORDS * len(task))
            and _num_distinct_words(task[sorted(covered)]) >= MIN_DISTINCT_WORDS
        )

    def _has_code(self, number: int, matches: "Matches", reading: "_Reading", text: bytes) -> bool:
        """Whether a stretch of the document covers nearly all of the task's code."""
        length = reading.num_telling[number]
        if length == 0:
            return False
        # However often something is repeated, it says the same.
        if reading.num_grams[number] + GRAM_TOKENS - 1 >= LONG_TOKENS:
            return _covers(matches, length, COVERED_LONG_TOKENS)
        if not _covers(matches, length, COVERED_TOKENS):
            return False
        with_numbers = self._with_numbers[reading].matches([text]).get(0, {}).get(number, [])
        return _covers(with_numbers, length, COVERED_TOKENS)


Matches = list[tuple[int, int]]
"""Where a gram of the document stands in it, and where in the task; in the document's order."""


class _Reading:
    """The tasks in one reading, and where their grams stand.

    Attributes:
        lex: how texts are read.
        tasks: words or tokens of each.
        num_telling: how many of those are in a gram that is looked for; 0 if too few of them are.
        num_grams: how many different ones there are in each.
    """

    def __init__(self, texts: Sequence[bytes], lex: Callable[..., Lexed], length: int) -> None:
        self.lex, self._length = lex, length
        lexed = lex(texts)
        found = grams(lexed.hashes, length)
        borders = np.flatnonzero(lexed.hashes == BORDER)
        self.tasks = np.split(lexed.hashes, borders)
        self.tasks[1:] = [task[1:] for task in self.tasks[1:]]
        begins = np.concatenate([[0], borders + 1])

        telling = np.flatnonzero(
            _num_distinct_in_runs(lexed.hashes, length) >= MIN_DISTINCT_IN_GRAM
        )
        numbers = _documents_of(lexed, telling)
        is_inside = telling + length <= np.append(borders, len(lexed.hashes))[numbers]
        telling, numbers = telling[is_inside], numbers[is_inside]
        is_covered = np.zeros(len(lexed.hashes), dtype=np.bool_)
        for offset in range(length):
            is_covered[telling + offset] = True
        covered = [int(part.sum()) for part in np.split(is_covered, borders)]
        self.num_telling = [
            num_tokens if num_tokens >= TELLING_SHARE * len(task) else 0
            for num_tokens, task in zip(covered, self.tasks, strict=True)
        ]
        self._places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        grams_of_task: dict[int, set[int]] = defaultdict(set)
        for gram, number, start in zip(
            found[telling].tolist(),
            numbers.tolist(),
            (telling - begins[numbers]).tolist(),
            strict=True,
        ):
            self._places[gram].append((number, start))
            grams_of_task[number].add(gram)
        self.num_grams = [len(grams_of_task[number]) for number in range(len(texts))]
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self._table[_slots(np.fromiter(self._places, dtype=np.uint64))] = True

    def matches(self, texts: Sequence[bytes]) -> dict[int, dict[int, Matches]]:
        """By document and task, the grams that they share."""
        if not texts:
            return {}
        lexed = self.lex(texts)
        found = grams(lexed.hashes, self._length)
        # One look into a table leaves few to be looked up.
        candidates = np.flatnonzero(self._table[_slots(found)])
        matches: dict[int, dict[int, Matches]] = {}
        if len(candidates) == 0:
            return matches
        documents = _documents_of(lexed, candidates)
        for place, gram, document in zip(
            candidates.tolist(), found[candidates].tolist(), documents.tolist(), strict=True
        ):
            for number, start in self._places.get(gram, ()):
                by_task = matches.setdefault(document, {})
                by_task.setdefault(number, []).append((place, start))
        return matches


def _batches(texts: Sequence[bytes]) -> Iterable[tuple[int, int]]:
    begin = num_bytes = 0
    for end, text in enumerate(texts, start=1):
        num_bytes += len(text)
        if num_bytes >= _BATCH_BYTES or end == len(texts):
            yield begin, end
            begin, num_bytes = end, 0


def _slots(found: Hashes) -> Hashes:
    return found >> np.uint64(64 - _TABLE_BITS)


def _documents_of(lexed: Lexed, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which document each token is of, by the borders before it."""
    borders = np.flatnonzero(lexed.hashes == BORDER)
    return np.searchsorted(borders, tokens)


def _covers(matches: Matches, length: int, share: float) -> bool:
    """Whether matches close together cover that share of a task of that length."""
    least = share * length
    if _covered(matches).bit_count() < least:
        return False
    first = 0
    for last, (place, _) in enumerate(matches):
        while place - matches[first][0] > STRETCH * length:
            first += 1
        if (last - first + 1) * GRAM_TOKENS < least:
            continue
        if _covered(matches[first : last + 1]).bit_count() >= least:
            return True
    return False


def _covered(matches: Matches) -> int:
    """Which of the task's tokens they are, as bits."""
    covered = 0
    for _, start in matches:
        covered |= _GRAM_BITS << start
    return covered


def _num_distinct_in_runs(hashes: Hashes, length: int) -> npt.NDArray[np.int64]:
    """How many differ in each run of that length."""
    if len(hashes) < length:
        return np.empty(0, dtype=np.int64)
    runs = np.sort(np.lib.stride_tricks.sliding_window_view(hashes, length), axis=1)
    num_distinct: npt.NDArray[np.int64] = 1 + (runs[:, 1:] != runs[:, :-1]).sum(axis=1)
    return num_distinct


def _num_distinct_words(hashes: Hashes) -> int:
    """How many differ; single letters say nothing, in a row they are any alphabet."""
    return len(set(hashes.tolist()) - _LETTERS)


_LETTERS: Final = frozenset(
    words([" ".join(string.ascii_lowercase + "_").encode()]).hashes.tolist()
)
