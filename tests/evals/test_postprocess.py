import random
import time

import pytest

from evals.postprocess import (
    CUT,
    CUT_AND_STRIP,
    FENCED,
    POST_PROCESSINGS,
    SPAN,
    Answer,
    cut_at_stops,
    fenced_block,
    longest_run,
    longest_span,
)
from tests.reference import longest_run_by_trying


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("    return 1\n", "    return 1\n"),
        ("    return 1\ndef f(): pass\nclass A: pass", "    return 1"),
        ("    return 1\nclass A: pass\ndef f(): pass", "    return 1"),
        ("\ndef f(): pass", ""),
        ("", ""),
    ],
)
def test_the_earliest_stop_cuts(text: str, kept: str) -> None:
    assert cut_at_stops(text, ("\nclass", "\ndef")) == kept
    assert cut_at_stops(text, ("\ndef", "\nclass")) == kept


def test_without_stops_nothing_is_cut() -> None:
    assert cut_at_stops("\ndef", ()) == "\ndef"


CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    "text",
    [
        f"Sure:\n```python\n{CODE}```\nDone.",
        f"Sure:\n```\n{CODE}```",
        f"```py\npip install x\n```\nand\n```python\n{CODE}```",
        f"```python\n{CODE}```\nor\n```python\ndef g(): return f(1)\n```",
        f"1.\n   ```python\n{CODE}   ```",
        f"```python\n{CODE}",
        CODE,
    ],
)
def test_the_block_with_the_entry_point_is_taken(text: str) -> None:
    assert fenced_block(text, "f(") == CODE


def test_without_the_entry_point_the_first_block_is_taken() -> None:
    assert fenced_block("```\na\n```\n```\nb\n```", "f") == "a\n"


LINES = [
    *(
        "def f(x):",
        "    return x",
        "    y = [",
        "    ]",
        "",
        "x = 1",
        "class A:",
        "    pass",
        "if x:",
    ),
    *(
        '"""',
        "'''",
        "x = 1 \\",
        "@cached",
        "print(f'{x}')",
        "f'{x'",
        "(",
        ")",
        "\tz = 1",
        "  w = 2",
    ),
    *("Here is the code:", "```python", "```", "# done", "for", "x = f'''", "{", "}", "try:", "\r"),
    *(
        "except E:",
        "else:",
        "match x:",
        "    case 1:",
        "import os",
        "from a import (b,",
        "c)",
        "é = 1",
    ),
]


@pytest.mark.parametrize(
    "seed",
    [*range(80), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(80, 300))],
)
def test_the_longest_run_is_that_found_by_trying_all(seed: int) -> None:
    rng = random.Random(seed)
    text = "\n".join(rng.choice(LINES) for _ in range(rng.randrange(16)))
    assert longest_run(text) == longest_run_by_trying(text)


def test_a_long_answer_takes_no_long_time() -> None:
    prose = "This is no line of Python.\n" * 500
    assert longest_run(prose + CODE * 100 + prose) == (CODE * 100).removesuffix("\n")


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("def g(x):\n    return x\n", False),
        ("def helper(x):\n    return x\n", True),
        ("helper = 3\n", True),
        ("helper: int = 3\n", True),
        ("class Unused:\n    pass\n", False),
        ("import os\n", True),
        ("from os import path\n", True),
        ("from __future__ import annotations\n", False),
        ("print(helper)\n", False),
        ("if True:\n    import os\n", False),
        ("def helper(x):\n    print(x)\n", False),  # returns nothing
        ("@cached\ndef helper(x):\n    return x\n", False),
    ],
)
def test_of_a_program_stays_what_the_entry_point_may_need(before: str, kept: bool) -> None:
    code = "def f(x):\n    return other.helper(x)"
    assert longest_span(f"{before}{code}\nprint(f(1))\n", "f") == (before if kept else "") + code


def test_what_is_needed_may_be_needed_by_what_is_needed() -> None:
    code = "LIMIT = 3\ndef g(x):\n    return LIMIT\ndef f(x):\n    return g(x)"
    assert longest_span(code, "f") == code


def test_of_two_definitions_the_first_stays() -> None:
    first, second = "def f(x):\n    return 1", "def f(x):\n    return 2"
    assert longest_span(f"{first}\n{second}", "f") == first


@pytest.mark.parametrize("text", ["print(1)\nprint(2)", "x + 1", "", "no Python", "no\nPython"])
def test_where_nothing_is_left_it_is_the_whole_run(text: str) -> None:
    assert longest_span(text, "f") == longest_run(text)


def test_without_an_entry_point_all_of_a_program_may_matter() -> None:
    code = "n = int(input())\nfor i in range(n):\n    print(i)"
    assert longest_span(f"Here:\n```python\n{code}\n```\n", "") == code


def test_a_chat_answer_loses_its_prose() -> None:
    text = f"Here is a function:\n```python\nimport math\n\n{CODE}\nprint(f(1))\n```\nIt returns x."
    assert longest_span(text, "f") == "import math\ndef f(x):\n    return x"


ANSWER = Answer("    return x\n\nprint(1)\n", CODE.partition("\n")[0] + "\n", "", "f", ("\nprint",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CUT, "    return x\n"),
        (CUT_AND_STRIP, "return x"),
        (SPAN, "def f(x):\n    return x"),
        (FENCED, "    return x\n\nprint(1)\n"),
    ],
)
def test_each_way_has_its_name(name: str, text: str) -> None:
    assert POST_PROCESSINGS[name].apply(ANSWER) == text


def test_what_a_chats_answer_was_given_to_begin_with_opens_its_block() -> None:
    answer = Answer(f"{CODE}```\nIt is done.", "", "```python\n", "f", ("\n```",))
    assert POST_PROCESSINGS[FENCED].apply(answer) == CODE
    assert POST_PROCESSINGS[SPAN].apply(answer) == CODE.strip()


@pytest.mark.parametrize("line", ["x = (", "@a"])
def test_an_answer_that_goes_round_and_round_is_given_up_soon(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.postprocess._MOST_TRIED_CHARS", 150_000)
    began_s = time.process_time()
    assert longest_run(CODE + f"{line}\n" * 200) == CODE.removesuffix("\n")
    assert time.process_time() - began_s < 10  # minutes, were all tried
    prose = "It is as simple as that, isn't it?\n" * 1000
    assert longest_run(prose + CODE + prose) == CODE.removesuffix("\n")  # the control
