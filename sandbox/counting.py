"""How many of the checks' assertions hold for a program that they did not all hold for.

Checks end at the first assertion that does not hold; these are the same checks, which go on.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any, Final, NamedTuple

from sandbox import checker, wire
from sandbox.outcome import Outcome

# Where a program failed its checks, it makes sense to ask how many.
COUNTED: Final = (Outcome.FAILED, Outcome.RAISED, Outcome.CHECKS_BROKEN)
# No name that checks could write.
_COUNTS: Final = "counts of assertions"
_ATTEMPT: Final = "C[1] += 1\ntry:\n    pass\n    C[0] += 1\nexcept Exception:\n    pass"


class Counting(NamedTuple):
    """Checks that go on; ``num_asserts`` is the number of assertions in their text, and
    ``may_hold`` says whether, where they do not all hold, one still can."""

    code: CodeType
    used: set[str]
    num_asserts: int
    may_hold: bool


def count(source: str, names: tuple[str, ...], stream: wire.Stream) -> tuple[int, int]:
    """The assertions that hold, and all that the checks met: one in a loop may be met many times.

    A program that ends among its checks is held to have met none of them.
    """
    counting = compile_counting(source, names)
    counts = [0, 0]
    namespace: dict[str, object] = {_COUNTS: counts}
    outcome, *_ = checker.run(counting.code, counting.used, source, stream, namespace)
    if outcome is not Outcome.HELD or not counts[1]:
        return 0, counting.num_asserts
    return counts[0], counts[1]


@functools.lru_cache(maxsize=512)
def compile_counting(source: str, names: tuple[str, ...]) -> Counting:
    """The checks with each assertion tried by itself.

    An assertion counts in functions too that are called in a statement of their own, as HumanEval's
    `check` is; those in others are left as they are, for what they belong to may want to know. So
    are those in a `try`.

    Raises:
        SyntaxError, ValueError, RecursionError: they do not compile.
    """
    _, used = checker.compile_checks(source, names)
    tree = ast.parse(checker.without_definitions(source, names), checker.FILE_NAME)
    counter = _Counter(_called(tree.body))
    tree.body = counter.counted(tree.body)
    code = compile(tree, checker.FILE_NAME, "exec", dont_inherit=True)
    num_asserts = counter.num_asserts
    return Counting(code, used, num_asserts, num_asserts > 1 or counter.has_looped)


def _called(body: Sequence[ast.stmt]) -> set[str]:
    """Functions that are called in statements of their own."""
    return {
        statement.value.func.id
        for statement in body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
    }


class _Counter:
    """Puts each assertion into a `try` of its own, which counts it. Looks at statements only."""

    def __init__(self, called: set[str]) -> None:
        self.num_asserts = 0
        self.has_looped = False
        self._called = called

    def counted(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [each for statement in body for each in self._counted(statement)]

    def _counted(self, statement: ast.stmt) -> Iterator[ast.stmt]:
        match statement:
            case ast.Assert():
                self.num_asserts += 1
                yield from _attempt(statement)
                return
            case ast.Try() | ast.TryStar():
                pass
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if isinstance(statement, ast.FunctionDef) and statement.name in self._called:
                    statement.body = self.counted(statement.body)
            case ast.Match():
                for case in statement.cases:
                    case.body = self.counted(case.body)
            case _:
                self._count_within(statement)
        yield statement

    def _count_within(self, statement: Any) -> None:
        num_before = self.num_asserts
        for part in ("body", "orelse"):
            if inside := getattr(statement, part, None):
                setattr(statement, part, self.counted(inside))
        is_loop = isinstance(statement, ast.For | ast.AsyncFor | ast.While)
        self.has_looped |= is_loop and self.num_asserts > num_before


def _attempt(statement: ast.Assert) -> list[ast.stmt]:
    body = ast.parse(_ATTEMPT).body
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.Name) and node.id == "C":
            node.id = _COUNTS
    attempt = body[1]
    assert isinstance(attempt, ast.Try)
    attempt.body[0] = statement
    return body
