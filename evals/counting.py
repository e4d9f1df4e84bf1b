"""How many of a task's checks hold for a program that fails some: a graded measure.

The verdict is that of the checks as they stand, which end at the first that does not hold. Only
then are these run, which go on to the last one, count, and always fail.
"""

from __future__ import annotations

import ast
import re
from typing import Final, NamedTuple

from sandbox import Checks

# A name in the checks' module, where a benchmark has names of its own.
COUNTS: Final = "__mtp_code_counts__"
_TOLD: Final = re.compile(r"(\d+) of (\d+) checks hold; ")


class Counting(NamedTuple):
    """`num_checks` is the number of asserts in the text; `checks` is None if there is but one."""

    checks: Checks | None
    num_checks: int


def counting(checks: Checks) -> Counting:
    """Checks that tell by their failure how many of the asserts held.

    An assert counts each time it is reached, and one that a loop holds may be so many times.
    Those in a function other than `check`, which is HumanEval's, are left as they are: what they
    belong to may want to know.
    """
    tree = ast.parse(checks.source)
    counter = _Counter()
    tree = counter.visit(tree)
    if counter.num_asserts < 2 and not (counter.num_asserts and counter.has_loops):
        return Counting(None, counter.num_asserts)
    tree.body.insert(0, ast.parse(f"{COUNTS} = [0, 0]").body[0])
    source = f"{ast.unparse(ast.fix_missing_locations(tree))}\n{telling(COUNTS)}\n"
    return Counting(Checks(source=source, names=checks.names), counter.num_asserts)


def telling(counts: str) -> str:
    """A statement that fails, and by that tells the two numbers of `counts`."""
    return f'assert False, f"{{{counts}[0]}} of {{{counts}[1]}} checks hold"'


def counts_told(detail: str) -> tuple[int, int] | None:
    """The checks that held, and all: as the detail of an examination tells it."""
    match = _TOLD.match(detail)
    return None if match is None else (int(match[1]), int(match[2]))


class _Counter(ast.NodeTransformer):
    """Puts each assert into a `try` of its own, which counts it."""

    def __init__(self) -> None:
        self.num_asserts = 0
        self.has_loops = False

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        self.num_asserts += 1
        attempt = ast.parse(
            f"{COUNTS}[1] += 1\ntry:\n    pass\n    {COUNTS}[0] += 1\nexcept Exception:\n    pass"
        ).body
        assert isinstance(attempt[1], ast.Try)
        attempt[1].body[0] = node
        return attempt

    def visit_For(self, node: ast.For) -> ast.AST:
        self.has_loops = True
        return self.generic_visit(node)

    visit_While = visit_For  # type: ignore[assignment]

    def visit_Try(self, node: ast.Try) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self.generic_visit(node) if node.name == "check" else node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node
