"""From completion to runnable program, and from a benchmark's tests to checks of it.

Checks run in a process that never executes the program: there the program's names are proxies.
So whatever the tests need beside them (a helper from the prompt, an import) is put into the
checks, from the benchmark's own text.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from evals.oracles.shipping import with_answers
from evals.records import Sample, Task
from sandbox import Checks, Limits


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
    return Checks(source, task.checked_names, are_live=are_ours, are_tidy=are_ours)


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
    unfinished entry point is left out, for that name is the program's.

    Raises:
        SyntaxError: the test is no Python.
    """
    needed = _needed_statements(_parse_unfinished(prompt), _parse(test), without=entry_point)
    call = f"check({entry_point})"
    return "\n".join([*map(ast.unparse, needed), test, call]), (entry_point,)


def mbpp_checks(
    imports: Sequence[str], setup: str, asserts: Sequence[str], reference: str
) -> tuple[str, tuple[str, ...]]:
    """Source and names of the checks of a task in MBPP's format; the entry point comes first.

    The set-up builds on the program's own classes (367, 927), so it belongs to the checks, which
    run after the program. A name that the checks do not bind themselves is the program's if the
    reference defines it, builtins included: 126 is to define `sum`. Where the reference only
    imports it (596: sys), so do the checks.

    Raises:
        SyntaxError: one of the parts is no Python.
    """
    source = "\n".join([*imports, *([setup] if setup else []), *asserts])
    solution, checks = _parse(reference), _parse(source)
    imported = [node for node in solution.body if isinstance(node, ast.Import | ast.ImportFrom)]
    needed = _needed_statements(imported, checks)
    defined = {name for node in solution.body if node not in imported for name in _bound(node)}

    ours = {name for node in [*needed, *checks.body] for name in _bound(node)}
    names = {
        name for name in _loaded(checks) - ours if name in defined or not hasattr(builtins, name)
    }
    # Breadth first: the outermost call of a program's function, not one among its arguments.
    calls = (
        node.func.id
        for line in asserts
        for node in ast.walk(_parse(line))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    entry_point = next((name for name in calls if name in names), None)
    if entry_point is None:
        raise SyntaxError("the asserts call no function of the solution")
    return (
        "\n".join([*map(ast.unparse, needed), source]),
        (entry_point, *sorted(names - {entry_point})),
    )


def can_fail(checks: str, names: Iterable[str]) -> bool:
    """Whether anything in the checks could fail by itself, but for the program's own functions.

    That is an assertion, something raised, or a call of what was not defined here.
    """
    tree = _parse(checks)
    if any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        return True  # as in nearly all, and soon found
    own = {*names, *vars(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own |= {node.name, *(each.arg for each in node.args.args)}
    return any(
        isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in own)
        for node in ast.walk(tree)
    )


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        # Of escapes such as "\w" in the benchmark's text: nothing the user could mend.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _parse_unfinished(prompt: str) -> list[ast.stmt]:
    """The prompt's statements up to where it breaks off, which may be anywhere."""
    lines = prompt.splitlines()
    for end in range(len(lines), 0, -1):
        for ending in ([], ["    pass"]):
            try:
                return _parse("\n".join([*lines[:end], *ending])).body
            except SyntaxError:
                continue
    return []


def _needed_statements(
    statements: Sequence[ast.stmt], user: ast.AST, without: str | None = None
) -> list[ast.stmt]:
    """The statements that bind a name `user` loads, or that such a statement loads in turn.

    `from … import *` may bind any, and is always among them.
    """
    wanted = _loaded(user)
    needed: set[int] = set()
    while True:
        more = {
            at
            for at, node in enumerate(statements)
            if at not in needed and without not in _bound(node) and _bound(node) & {*wanted, "*"}
        }
        if not more:
            return [statements[at] for at in sorted(needed)]
        needed |= more
        wanted = wanted.union(*(_loaded(statements[at]) for at in more))


def _loaded(tree: ast.AST) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a module-level statement binds in its module."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
