"""Code of ours that runs in the sandbox, beside a program and in its checks, as lines to append.

It travels as text and gets a namespace of its own: a program may call its functions `decode` or
`sum`, and neither may meet ours.
"""

from __future__ import annotations

import ast
import marshal
from functools import cache
from importlib import resources
from importlib.util import MAGIC_NUMBER
from typing import Final

from evals.counting import COUNTS, telling

# What the checks call in the program's process.
ANSWERS: Final = "__mtp_code_answers__"
_LINE: Final = "__mtp_code_line__"


def with_answers(program: str) -> str:
    """The program, followed by what lets its checks ask for many answers at once.

    Where it is no Python it stays so: nothing appended closes a string or continues a line.
    """
    return f"{program}{_line_end(program)}{ANSWERS} = {function_of('answering', 'answers')}\n"


def with_record(program: str, entry_point: str, atol: float, rule: str | None) -> str:
    """The program, followed by what reads lines of inputs and writes a line of answers to each."""
    return (
        f"{program}\n{ANSWERS} = {_loaded('answering')}\n"
        f"import sys\nfor {_LINE} in sys.stdin.read().splitlines(): sys.stdout.write({ANSWERS}"
        f"['record']({entry_point}, {_LINE}, {atol!r}, {rule!r}) + '\\n')\n"
    )


def checks_source(
    entry_point: str, rule: str | None, atol: float, chunks: list[tuple[str, str]]
) -> str:
    """Checks that hold the answers of a program with `with_answers` to what is expected."""
    return (
        f"__mtp_code_chunks__ = {chunks!r}\n"
        f"__mtp_code_hold__ = {_held()}\n"
        f"__mtp_code_hold__({entry_point!r}, {entry_point}, {ANSWERS}, {rule!r}, {atol!r}, "
        "__mtp_code_chunks__)\n"
    )


def counting_source(sources: list[str]) -> str:
    """Checks that always fail, and tell how many answers are as all these checks have them."""
    counted = f"(lambda _, *given: {function_of('holding', 'count')}(*given, {COUNTS}))"
    text = "".join(source.replace(_held(), counted) for source in sources)
    return f"{COUNTS} = [0, 0]\n{text}{telling(COUNTS)}\n"


def _held() -> str:
    return function_of("holding", "hold")


def _line_end(program: str) -> str:
    """A backslash at the end of a program must not become a continued line.

    It belongs to a comment, or is an error. A blank behind it leaves either as it is: outside of
    comments and strings no blank may follow one, and a string that is open there stays open.
    """
    return " \n" if program.endswith("\\") else "\n"


def function_of(module: str, function: str) -> str:
    """An expression for a function of that module of this package."""
    return f"{_loaded(module)}[{function!r}]"


@cache
def _loaded(module: str) -> str:
    """An expression for a fresh namespace in which that module of this package was run."""
    # Compiled, where it arrives at an interpreter like this one: that takes most of the time. In
    # the version of marshal that does not tell which values are one object, by chance or not.
    source = _source(module)
    code = marshal.dumps(compile(source, f"<{module}>", "exec", dont_inherit=True), 2)
    # Without builtins of the program's own, should it have any of these names.
    return (
        "(lambda own: (__import__('builtins').exec("
        f"__import__('marshal').loads({code!r}) "
        "if __import__('_frozen_importlib_external').MAGIC_NUMBER == "
        f"{MAGIC_NUMBER!r} else {source!r}, own), own)[1])({{'__name__': {module!r}}})"
    )


@cache
def _source(module: str) -> str:
    """A module's text after that of those it imports here, without comments and docstrings."""
    text = (resources.files("evals.oracles") / f"{module}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    before = ""
    for node in list(tree.body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evals.oracles."):
            tree.body.remove(node)
            needed = _source((node.module or "").rpartition(".")[2])
            before += needed if needed not in before else ""
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            part
        ):
            part.body[:1] = [] if len(part.body) > 1 else [ast.Pass()]
    source = before + ast.unparse(tree) + "\n"
    assert '"""' not in source
    assert "'''" not in source
    return source
