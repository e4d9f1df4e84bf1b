import ast
import json
import os
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.errors import MachineError
from mtp_code.data.bench import contamination_figures, renamed
from mtp_code.data.contamination import Contamination, Reference
from mtp_code.data.corpora import StandardLibrary
from mtp_code.data.documents import Document
from mtp_code.data.filters import content_digest
from tests.evals.loaded import loaded

BENCHMARKS = ("humaneval", "mbpp") if "MTP_CODE_DATA" in os.environ else ("humaneval",)


def task_in(contamination: Contamination, text: str) -> str | None:
    (found,) = contamination.contained_tasks([text.encode()])
    return found


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    try:
        tasks = [task for name in BENCHMARKS for task in loaded(name).tasks]
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
    documents = []
    for reference in references:
        before, after = (rng.choice(library)[:500] for _ in range(2))
        documents.append(f"{before}\n{disguise(reference.text)}\n{after}".encode())
    assert None not in contamination.contained_tasks(documents)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.thorough), 24])
def test_renamed_copies_are_found_and_the_library_is_not_flagged(
    references: list[Reference], library: list[str], every: int
) -> None:
    # A seventh, so that both benchmarks have their share: tasks are compared with each text.
    chosen = references if every == 1 else references[::7]
    figures = contamination_figures(chosen, library[::every])
    found = dict(figures["found"])
    assert found.pop("copied") == 1
    assert len(found) == 2
    assert all(share >= 0.95 for share in found.values()), found
    (falsely,) = figures["false_flags"].values()
    assert falsely <= 0.01


@given(data=st.data())
def test_many_documents_at_once_are_judged_as_each_alone(
    contamination: Contamination, references: list[Reference], data: st.DataObject
) -> None:
    piece = st.sampled_from([reference.text[:400] for reference in references[:20]])
    texts = data.draw(st.lists(piece | st.sampled_from(["", "x = 1\n", "# a"]), max_size=8))
    together = contamination.contained_tasks([text.encode() for text in texts])
    assert together == [task_in(contamination, text) for text in texts]


LOOP = """
def total_of_even(numbers):
    total = 0
    for number in numbers:
        if number % 2 == 0:
            total += number * 3
        else:
            total -= abs(number)
    return total
"""
RENAMED_LOOP = """
def f(a):  # another name, another layout
  '''Says something else.'''
  b = 0
  for c in a:
        if (c % 2 == 0): b += (c*3)
        else: b -= abs(c)
  return b
"""


def test_code_is_known_whatever_its_names_layout_comments_and_docstrings_are() -> None:
    contamination = Contamination([Reference("t/0", LOOP)])
    assert task_in(contamination, f"import os\n{RENAMED_LOOP}\nx = 1\n") == "t/0"
    another = RENAMED_LOOP.replace("% 2 == 0", "> 7").replace("+=", "*=")
    assert task_in(contamination, another) is None


def test_a_short_task_is_found_with_its_own_numbers_only() -> None:
    contamination = Contamination([Reference("t/0", "def f(x):\n    return [x % 11, abs(x)]\n")])
    assert task_in(contamination, "def g(y): return [y % 11, abs(y)]") == "t/0"
    assert task_in(contamination, "def g(y): return [y % 12, abs(y)]") is None


def test_code_spread_over_a_document_is_not_the_tasks() -> None:
    first, second = RENAMED_LOOP[:110], RENAMED_LOOP[110:]
    far = "\n".join(f"y{i} = g({i}) + h({i})" for i in range(200))
    contamination = Contamination([Reference("t/0", LOOP)])
    assert task_in(contamination, f"{first}\n{far}\n{second}") is None


def test_lists_of_numbers_and_repeated_words_are_no_benchmark_text() -> None:
    table = ", ".join(str(i) for i in range(200))
    contamination = Contamination([Reference("t/0", f"data = [{table}]\n{'d ' * 40}")])
    assert task_in(contamination, f"other = [{table}]\n{'d ' * 40}") is None


PROSE = "return the sum of all even squares below a given limit as one integer value without loops"
"""Seventeen words."""


def test_a_run_of_thirteen_words_is_the_least_that_is_found() -> None:
    words = PROSE.split()
    other = " ".join(f"w{i}" for i in range(100))
    contamination = Contamination([Reference("t/0", f"{PROSE} {other}")])
    assert task_in(contamination, " ".join(["x", *words[:13], "y"])) == "t/0"
    assert task_in(contamination, " ".join(["x", *words[:12], "y"])) is None


def test_half_a_task_in_pieces_is_found_and_less_is_not() -> None:
    words = PROSE.split()
    contamination = Contamination([Reference("t/0", PROSE)])
    pieces = [words[:7], words[8:16]]
    assert task_in(contamination, " / x ".join(map(" ".join, pieces))) == "t/0"
    assert task_in(contamination, " ".join(pieces[0])) is None


def test_tasks_shorter_than_a_run_are_found_whole() -> None:
    contamination = Contamination(
        [Reference("t/0", "def add(first, second): return the_sum(of_both, first, second)")]
    )
    assert task_in(contamination, "def add(first,second):\n return the_sum(of_both,first,second)")
    assert task_in(contamination, "def add(first, second): return the_sum(of_both)") is None


def test_copies_are_known_up_to_trailing_blanks_and_line_ends() -> None:
    contamination = Contamination([Reference("t/0", "def f():\n    return 1\n")])
    assert contamination.copied_task(content_digest("\ndef f():  \r\n    return 1")) == "t/0"
    assert contamination.copied_task(content_digest("def f():\n    return 2\n")) is None


def with_types(program: str) -> str:
    """Every function's arguments and result with a type, comments gone."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = ast.Name("dict[str, list[int]]")
            for argument in node.args.args:
                argument.annotation = ast.Name("Optional[list[int]]")
    return ast.unparse(tree)


def test_tasks_in_json_and_notebooks_are_all_found(
    contamination: Contamination, references: list[Reference]
) -> None:
    for dumped in (
        [json.dumps({"x": one.text}) for one in references],
        [
            json.dumps([{"source": one.text.splitlines(keepends=True)}], indent=1)
            for one in references
        ],
    ):
        assert None not in contamination.contained_tasks([text.encode() for text in dumped])


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_renamed_copies_with_types_are_found(
    contamination: Contamination, references: list[Reference]
) -> None:
    rng = random.Random(0)
    disguised = [with_types(renamed(reference.text, rng)).encode() for reference in references]
    found = contamination.contained_tasks(disguised)
    assert sum(task is not None for task in found) >= 0.98 * len(references)


def test_code_is_known_with_other_types_and_without_any() -> None:
    typed = LOOP.replace("(numbers)", "(numbers: list[int]) -> int")
    for task, other in ((LOOP, typed), (typed, LOOP)):
        document = other.replace("number", "x").replace("total", "y")
        assert task_in(Contamination([Reference("t/0", task)]), document) == "t/0"


def test_an_alphabet_is_no_benchmark_text() -> None:
    letters = ", ".join(f"'{letter}'" for letter in "abcdefghijklmnopqrstuvwxyz")
    contamination = Contamination([Reference("t/0", f"Splits a list. f([{letters}])")])
    assert task_in(contamination, f"table = ({letters})") is None
