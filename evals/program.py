"""From completion to runnable program, and from a benchmark's tests to checks of it.

Checks run in a process that never executes the program: there the program's names are proxies.
So whatever the tests need beside them (a helper from the prompt, an import) is put into the
checks, from the benchmark's own text.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from evals.errors import UnusableRowError
from evals.oracles.shipping import with_answers
from evals.records import Sample, Task
from evals.text import quoted
from sandbox import Checks, Limits

_MOST_ENTRY_POINT_CHARS: Final = 200
# Of what is parsed to find where a prompt breaks off: seconds, if it was made to take long.
_MOST_PARSED_CHARS: Final = 1_000_000
_MOST_TIMES_PARSED: Final = 10


def program_of(task: Task, sample: Sample) -> str:
    """What the sandbox is to run: for + tasks, with what lets their checks ask for answers."""
    if sample.solution is not None:
        program = sample.solution
    else:
        assert sample.completion is not None  # Sample holds one of the two
        program = task.program_prefix + sample.completion
    return program if task.oracle is None else with_answers(program)


def checks_of(task: Task) -> Checks:
    assert task.checks, f"{task.task_id}: checks are to come, from with_expected_outputs"
    return _checks(task, task.checks)


def plus_checks_of(task: Task) -> Checks | None:
    """The checks of a + task's further inputs, to be held to besides `checks_of`."""
    if task.plus_checks is None:
        return None
    return _checks(task, task.plus_checks)


def _checks(task: Task, source: str) -> Checks:
    # Those that hold answers to a reference's are ours: they ask for some, then for more, and
    # change nothing but what is theirs.
    are_ours = task.oracle is not None
    return Checks(
        source, task.checked_names, beside=task.beside, are_live=are_ours, are_tidy=are_ours
    )


def limits_of(task: Task, limits: Limits) -> Limits:
    """The limits, raised to what the task's own solution needs."""
    return replace(
        limits,
        cpu_s=max(limits.cpu_s, task.cpu_s or 0),
        memory_bytes=max(limits.memory_bytes, task.memory_bytes or 0),
    )


def recorded_limits(limits: Limits) -> dict[str, Any]:
    """As scores hold them: the backstop of wall-clock time spelled out."""
    return {**limits.as_dict(), "wall_s": limits.wall_limit_s}


def raised_limits(tasks: Iterable[Task], limits: Limits) -> dict[str, dict[str, Any]]:
    """By task id, what `limits_of` raises of the limits for it: of the tasks that it does for."""
    usual = recorded_limits(limits)
    raised = {}
    for task in tasks:
        its = recorded_limits(limits_of(task, limits))
        if its != usual:
            raised[task.task_id] = {name: its[name] for name in its if its[name] != usual[name]}
    return raised


def room_of(tasks: Iterable[Task], limits: Limits) -> Limits:
    """Bounds that hold whatever `limits_of` gives any of the tasks' programs."""
    most = max(limits_of(task, limits).memory_bytes for task in tasks)
    return replace(limits, memory_bytes=most)


def humaneval_checks(prompt: str, test: str, entry_point: str) -> tuple[str, tuple[str, ...]]:
    """Source and names of the checks of a task in HumanEval's format.

    Of the prompt they hold what the test needs: HumanEval/32, 38 and 50 call its helpers. Its
    unfinished entry point is left out, for that name is the program's. An entry point may be an
    expression, such as Solution().f.

    Raises:
        UnusableRowError: the entry point is no such expression, or what the test needs of the
            prompt cannot be told from it.
        SyntaxError: the test is no Python.
    """
    names = _names_of(entry_point)
    statements = _parse_unfinished(prompt)
    needed = _needed_statements(statements, _parse(test), without=names)
    source = "\n".join([*map(ast.unparse, needed), test, f"check({entry_point})"])
    bound = {name for node in statements for name in _bound(node)}
    if withheld := sorted((bound & _names_taken(Checks(source, names))) - {*names}):
        raise UnusableRowError(
            f"prompt: binds {withheld[0]}, which the test needs, in one statement with "
            f"{entry_point}, so that the program could bind it anew; bind it in one of its own"
        )
    return source, names


def mbpp_checks(
    imports: Sequence[str], setup: str, asserts: Sequence[str], reference: str
) -> tuple[str, tuple[str, ...]]:
    """Source and names of the checks of a task in MBPP's format; the entry point comes first.

    The set-up builds on the program's own classes (367, 927), so it belongs to the checks, which
    run after the program. A name that the checks do not bind themselves is the program's if the
    reference defines it, builtins included: 126 is to define `sum`. Where the reference only
    imports it (596: sys), in a `try` perhaps, so do the checks.

    Raises:
        UnusableRowError: the reference imports what the checks need in one statement with what it
            defines, or they call nothing of it.
        SyntaxError: one of the parts is no Python.
    """
    source = "\n".join([*imports, *([setup] if setup else []), *asserts])
    solution, checks = _parse(reference), _parse(source)
    importing = [node for node in solution.body if _bound(node) and _bound(node) <= _imported(node)]
    needed = _needed_statements(importing, checks)
    ours = {name for node in [*needed, *checks.body] for name in _bound(node)}
    others = [node for node in solution.body if node not in importing]
    wanted = _loaded(checks) - ours
    imported_beside = {name for node in others for name in _imported(node)}
    if withheld := sorted(wanted & imported_beside):
        raise UnusableRowError(
            f"code: imports {withheld[0]}, which the tests need, in one statement with what it "
            "defines, so that a program could bind it anew; import it by itself"
        )
    defined = {name for node in others for name in _bound(node)}
    names = {name for name in wanted if name in defined or not hasattr(builtins, name)}
    # Breadth first: the outermost call of a program's function, not one among its arguments.
    calls = (
        node.func.id
        for line in asserts
        for node in ast.walk(_parse(line))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    entry_point = next((name for name in calls if name in names), None)
    if entry_point is None:
        raise UnusableRowError("test_list: the asserts call no function of the solution")
    return (
        "\n".join([*map(ast.unparse, needed), source]),
        (entry_point, *sorted(names - {entry_point})),
    )


def undeclared_names(task: Task) -> set[str]:
    """Names that the task's checks take from the program, and that its row says nothing of.

    The program decides what these are, so that it decides what the checks make of them.
    """
    checks = checks_of(task)
    if task.beside:
        return set()  # all that they find is what the program decides
    if any("*" in _imported(statement) for statement in _parse(checks.source).body):
        return set()  # what this may bind is not known
    return _names_taken(checks).difference(task.checked_names)


def require_compiles(checks: str) -> None:
    """
    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: these do not: a `return` outside of a
            function parses, for one.
    """
    with _no_warnings():
        compile(checks, "<checks>", "exec", dont_inherit=True)


def can_fail(checks: str, names: Iterable[str]) -> bool:
    """Whether anything in the checks could fail by itself, but for the program's own functions.

    That is an assertion, something raised, or a call of what was not defined here.
    """
    tree = _parse(checks)
    if any(_is_assertion(node) for node in ast.walk(tree)):
        return True  # as in nearly all, and soon found
    own = {*names, *vars(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own |= {node.name, *(each.arg for each in node.args.args)}
    return any(
        isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in own)
        for node in ast.walk(tree)
    )


def _is_assertion(node: ast.AST) -> bool:
    """Whether it raises, or may: `assert (x == 1, "one")` asserts a tuple, and never fails."""
    match node:
        case ast.Raise():
            return True
        case ast.Assert(test=ast.Tuple(elts=[_, *_]) | ast.Lambda()):
            return False
        case ast.Assert(test=ast.Constant(value=value)):
            return not value
    return isinstance(node, ast.Assert)


def _parse(source: str) -> ast.Module:
    with _no_warnings():
        return ast.parse(source)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Of escapes such as "\\w" in the benchmark's text: nothing the user could mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse_unfinished(prompt: str) -> list[ast.stmt]:
    """The prompt's statements up to where it breaks off, which may be anywhere.

    That is the longest run of its lines that is Python, by itself or with a body for its last one.
    What goes beyond the line of an error has it too, so that such runs are not tried.

    Raises:
        UnusableRowError: there are too many places where it may break off.
    """
    lines = _lines(prompt)
    end, left_chars = len(lines), _MOST_PARSED_CHARS + _MOST_TIMES_PARSED * len(prompt)
    while end > 0:
        run = "\n".join(lines[:end])
        try:
            return _parse(run).body
        except SyntaxError as error:
            error_line = error.lineno or end
        with contextlib.suppress(SyntaxError):
            return _parse(f"{run}\n    pass").body
        left_chars -= 2 * len(run)
        if left_chars < 0:
            raise UnusableRowError(
                f"prompt: its {len(lines):,} lines may break off at too many of them; shorten it, "
                "or let it be Python up to its last line"
            )
        end = min(end - 1, error_line - 1)
    return []


def _lines(source: str) -> list[str]:
    """Lines as Python counts them; str.splitlines() knows more ends of lines."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _names_of(entry_point: str) -> tuple[str, ...]:
    """The names of the program that an entry point is made of."""
    if len(entry_point) > _MOST_ENTRY_POINT_CHARS:
        raise UnusableRowError(
            f"entry_point: {len(entry_point):,} characters; at most {_MOST_ENTRY_POINT_CHARS}"
        )
    try:
        names = _loaded(ast.parse(entry_point, mode="eval"))
    except SyntaxError:
        names = set()
    if not names or "check" in names:
        raise UnusableRowError(
            f"entry_point: {quoted(entry_point)}; expected what check is to be called with, "
            "such as f or Solution().f"
        )
    return tuple(sorted(names))


def _needed_statements(
    statements: Sequence[ast.stmt], user: ast.AST, without: Iterable[str] = ()
) -> list[ast.stmt]:
    """The statements that bind a name `user` loads, or that such a statement loads in turn.

    `from … import *` may bind any, and is always among them. Those that bind one of `without` are
    not.
    """
    binding: dict[str, list[int]] = {}
    for at, statement in enumerate(statements):
        if (bound := _bound(statement)).isdisjoint(without):
            for name in bound:
                binding.setdefault(name, []).append(at)
    needed: set[int] = set()
    ahead = ["*", *_loaded(user)]
    while ahead:
        for at in binding.pop(ahead.pop(), ()):
            if at not in needed:
                needed.add(at)
                ahead += _loaded(statements[at])
    return [statements[at] for at in sorted(needed)]


def _loaded(tree: ast.AST) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a module-level statement may bind in its module, in whatever part of it."""
    bound = _imported(statement)
    for node in _of_module(statement):
        match node:
            case ast.FunctionDef(name=str(name)) | ast.AsyncFunctionDef(name=str(name)):
                bound.add(name)
            case ast.ClassDef(name=str(name)) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
    return bound


def _imported(statement: ast.stmt) -> set[str]:
    """Of the names that it may bind, those that it may import."""
    return {
        (alias.asname or alias.name).split(".")[0]
        for node in _of_module(statement)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _of_module(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement and what is in it, but for the insides of functions, lambdas and classes."""
    ahead: list[ast.AST] = [statement]
    while ahead:
        node = ahead.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            ahead.extend(ast.iter_child_nodes(node))


def _names_taken(checks: Checks) -> set[str]:
    """Names that the checks take from the program, unless an import of `*` binds them."""
    with _no_warnings():
        return checks.names_taken()
