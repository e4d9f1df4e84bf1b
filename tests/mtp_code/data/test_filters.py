import os
import random
from collections.abc import Callable

import pytest

from evals.benchmarks import load_benchmark
from evals.errors import MachineError
from mtp_code.data.corpora import StandardLibrary
from mtp_code.data.contamination import Contamination, Reference
from mtp_code.data.documents import Document
from mtp_code.data.filters import content_digest, is_held_out

BENCHMARKS = ("humaneval", "mbpp") if "MTP_CODE_DATA" in os.environ else ("humaneval",)


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    try:
        tasks = [task for name in BENCHMARKS for task in load_benchmark(name).tasks]
    except MachineError as error:
        pytest.skip(str(error))
    return [Reference(task.task_id, task.prompt + (task.reference or "")) for task in tasks]


@pytest.fixture(scope="module")
def contamination(references: list[Reference]) -> Contamination:
    return Contamination(references)


@pytest.fixture(scope="module")
def library() -> list[str]:
    documents = StandardLibrary(kind="stdlib").documents()
    return [found.text for found in documents if isinstance(found, Document)]


def requoted(text: str) -> str:
    return text.replace('"""', "'''").replace("    ", "\t").replace("\n", "\n\n")


@pytest.mark.parametrize("disguise", [str, str.upper, requoted])
def test_planted_copies_are_all_found(
    contamination: Contamination,
    references: list[Reference],
    library: list[str],
    disguise: Callable[[str], str],
) -> None:
    rng = random.Random(0)
    for reference in references:
        before, after = (rng.choice(library)[:500] for _ in range(2))
        document = f"{before}\n{disguise(reference.text)}\n{after}"
        assert contamination.contained_task(document) is not None, reference.name


def test_at_most_one_in_a_hundred_library_files_is_flagged(
    contamination: Contamination, library: list[str]
) -> None:
    flagged = sum(contamination.contained_task(text) is not None for text in library)
    assert flagged <= len(library) / 100


def test_lists_of_numbers_and_repeated_words_are_no_benchmark_text() -> None:
    table = ", ".join(str(i) for i in range(200))
    contamination = Contamination([Reference("t/0", f"data = [{table}]\n{'d ' * 40}")])
    assert contamination.contained_task(f"other = [{table}]\n{'d ' * 40}") is None


PROSE = "return the sum of all even squares below a given limit as one integer value without loops"
"""Seventeen words."""


def test_a_run_of_thirteen_words_is_the_least_that_is_found() -> None:
    words = PROSE.split()
    other = " ".join(f"w{i}" for i in range(100))
    contamination = Contamination([Reference("t/0", f"{PROSE} {other}")])
    assert contamination.contained_task(" ".join(["x", *words[:13], "y"])) == "t/0"
    assert contamination.contained_task(" ".join(["x", *words[:12], "y"])) is None


def test_half_a_task_in_pieces_is_found_and_less_is_not() -> None:
    words = PROSE.split()
    contamination = Contamination([Reference("t/0", PROSE)])
    pieces = [words[:7], words[8:16]]
    assert contamination.contained_task(" / x ".join(map(" ".join, pieces))) == "t/0"
    assert contamination.contained_task(" ".join(pieces[0])) is None


def test_tasks_shorter_than_a_run_are_found_whole() -> None:
    contamination = Contamination(
        [Reference("t/0", "def add(first, second): return the_sum(of_both, first, second)")]
    )
    assert contamination.contained_task(
        "def add(first,second):\n return the_sum(of_both,first,second)"
    )
    assert contamination.contained_task("def add(first, second): return the_sum(of_both)") is None


def test_copies_are_known_up_to_trailing_blanks_and_line_ends() -> None:
    contamination = Contamination([Reference("t/0", "def f():\n    return 1\n")])
    assert contamination.copied_task(content_digest("\ndef f():  \r\n    return 1")) == "t/0"
    assert contamination.copied_task(content_digest("def f():\n    return 2\n")) is None


def test_indentation_and_inner_blank_lines_make_a_difference() -> None:
    assert len({content_digest(text) for text in ("a\nb", "a\n b", "a\n\nb", " a\nb")}) == 4


def test_held_out_share_is_as_asked_and_the_same_every_time() -> None:
    digests = [content_digest(f"text {i}") for i in range(10_000)]
    held_out = [is_held_out(digest, 0.1) for digest in digests]
    assert 800 < sum(held_out) < 1200
    assert held_out == [is_held_out(digest, 0.1) for digest in digests]
    assert not any(is_held_out(digest, 0.0) for digest in digests)


def test_a_larger_share_holds_out_what_a_smaller_one_does() -> None:
    digests = [content_digest(f"text {i}") for i in range(1000)]
    assert all(is_held_out(digest, 0.2) for digest in digests if is_held_out(digest, 0.1))
