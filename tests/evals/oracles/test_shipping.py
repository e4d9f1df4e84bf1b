"""Code of ours that runs beside a program, as it arrives there."""

import ast
import os
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from typing import Any

import pytest

from evals.oracles.shipping import (
    ANSWERS,
    _source,
    checks_source,
    with_answers,
    with_record,
)
from evals.oracles.values import decode, encode


def run(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(source, "program.py", "exec", dont_inherit=True), namespace)
    return namespace


def asked(program: str, *inputs: list[Any]) -> Any:
    namespace = run(with_answers(program))
    return decode(namespace[ANSWERS](namespace["f"], encode(list(inputs)), [], False))


# What a program may define itself, and our code uses.
SHADOWS = "\n".join(
    f"{name} = None"
    for name in (
        "sum",
        "list",
        "type",
        "len",
        "map",
        "set",
        "json",
        "sys",
        "decode",
        "encode",
        "io",
    )
)


@pytest.mark.parametrize(
    "program", ["def f(x): return x + 1", f"{SHADOWS}\ndef f(x): return x + 1"]
)
def test_a_program_is_asked_whatever_names_it_uses(program: str) -> None:
    assert asked(program, [1], [2]) == [2, 3]


def test_a_program_keeps_its_lines_and_its_names() -> None:
    program = "import math\ndef f(x):\n    return x\n"
    source = with_answers(program)
    assert source.startswith(program)
    assert run(source).keys() - run(program).keys() == {ANSWERS}


@pytest.mark.parametrize(
    "program",
    [
        'def f(x):\n    """no end',
        "x = '''",
        "f = (1,",
        "f(x=",
        "x = 'a",
        "x = 1 \\",
        "\\",
        "x = 1\n  \\",
        "x = 1 \\\n\\",
        "x = '#' \\",
        "x = 'a # \\",
        'x = "a # \\',
        "x = r'a\\",
        "x = f'{1 # \\",
        "x = f'{1:# \\",
        'x = """\n# \\',
        "x = (  # \\",
        "def f(x):",
        "if True:\n",
        "@decorated",
        "\x00",
    ],
)
def test_what_is_no_python_stays_so(program: str) -> None:
    for source in (program, with_answers(program)):
        with pytest.raises((SyntaxError, ValueError)):
            compile(source, "program.py", "exec")


@pytest.mark.parametrize(
    "end", ["# a comment \\", "x = '#' # \\", '"""\n""" # \\', "#\\\\", "x=1\r#\\"]
)
def test_a_backslash_that_is_no_error_stays_none(end: str) -> None:
    assert asked(f"def f(x): return x\n{end}", [1]) == [1]


def test_no_program_is_parsed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a million numbers takes gigabytes, and this process has no limits."""
    with_answers("x = 1")  # parses our own code, once
    monkeypatch.setattr("ast.parse", pytest.fail)
    assert with_answers("x = [1, 1] \\").startswith("x = [1, 1] \\")


@pytest.mark.parametrize("module", ["answering", "holding", "values"])
def test_what_is_shipped_needs_nothing_but_the_standard_library(module: str) -> None:
    source = _source(module)
    assert "evals" not in source
    assert ast.parse(source)
    assert source.count("class Digest") == 1


def checked(answers: str, right: str) -> None:
    """Run checks of `f` with a program that answers so."""
    source = checks_source("f", None, 0.0, [("[[1],[2]]", right)])
    exec(source, {"f": object(), ANSWERS: lambda *_: answers})


def test_checks_hold_answers_to_what_is_expected() -> None:
    checked("[1,2]", "[1,2.0]")
    with pytest.raises(AssertionError, match=r"input 2: f\(2\) gave 3, not 2"):
        checked("[1,3]", "[1,2]")


@pytest.mark.parametrize("entry_point", ["decode", "hold", "encode", "sum", "json"])
def test_checks_call_whatever_the_entry_point_is_named(entry_point: str) -> None:
    source = checks_source(entry_point, None, 0.0, [("[[1]]", "[1]")])
    exec(source, {entry_point: object(), ANSWERS: lambda *_: "[1]"})


def test_a_reference_writes_its_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("[[1],[2]]\n[]"))
    run(with_record("def f(x):\n    print('chatty')\n    return (x,)\n", "f", 0.0, None))
    assert capsys.readouterr().out == '[{"tuple":[1]},{"tuple":[2]}]\n[]\n'


def test_other_interpreters_compile_our_code_themselves() -> None:
    """What marshal wrote is for one version; the text goes with it."""
    source = with_answers("def f(x): return x + 1")
    other = source.replace(repr(MAGIC_NUMBER), repr(b"another"))
    assert other != source
    namespace: dict[str, Any] = {}
    exec(other, namespace)
    assert decode(namespace[ANSWERS](namespace["f"], "[[1]]", [], False)) == [2]


def test_what_is_shipped_is_the_same_in_every_process() -> None:
    """Findings are kept by its hash."""
    show = (
        "import hashlib; from evals.oracles.shipping import checks_source, with_answers; "
        "shipped = with_answers('') + checks_source('f', None, 0.0, []); "
        "print(hashlib.sha256(shipped.encode()).hexdigest())"
    )
    told = {
        subprocess.check_output(
            [sys.executable, "-c", show], env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
