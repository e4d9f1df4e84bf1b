"""Checks beside the program, in one process: for checks that patch it or look into it.

What they find is what the program lets them find. Whoever reads it is told that it is weak.
"""

import traceback

from sandbox import candidate, checker
from sandbox.outcome import Outcome


def run(source: str, checks: str, names: list[str], note: int) -> None:
    """Run the program, then its checks in the same module; write to ``note`` what came of it."""
    outcome, detail, kind = _examine(source, checks, tuple(names))
    checker.write_finding(note, outcome, detail, kind)


def _examine(source: str, checks: str, names: tuple[str, ...]) -> tuple[Outcome, str, str | None]:
    try:
        code, used = checker.compile_checks(checks, names)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Outcome.CHECKS_BROKEN, f"the checks do not compile: {error}", None
    namespace = candidate.make_module(candidate.MODULE, source).__dict__
    try:
        exec(compile(source, candidate.FILE_NAME, "exec", dont_inherit=True), namespace)
    except SystemExit as exit_:
        candidate.leave(candidate.exit_code(exit_))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        candidate.print_traceback(error)
        flaw = candidate.is_syntax_error(error)
        outcome = Outcome.SYNTAX_ERROR if flaw else Outcome.RAISED
        return outcome, candidate.describe(error), candidate.kind_of(error)
    missing = used - namespace.keys()
    checker.hide_builtins(namespace, used)
    try:
        exec(code, namespace)
    except SystemExit as exit_:
        candidate.leave(candidate.exit_code(exit_))
    except BaseException as error:  # noqa: BLE001 - whatever ended the checks, it has an outcome
        return _outcome(error, missing, checks)
    return Outcome.HELD, "", None


def _outcome(
    error: BaseException, missing: set[str], checks: str
) -> tuple[Outcome, str, str | None]:
    where = checker.where(error, checks)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if candidate.FILE_NAME in files:
        return Outcome.RAISED, f"{candidate.describe(error)}; {where}", candidate.kind_of(error)
    if isinstance(error, AssertionError):
        return Outcome.FAILED, where, None
    if isinstance(error, NameError) and error.name in missing:
        return Outcome.UNDEFINED, f"the program does not define {error.name}", None
    said = "".join(traceback.format_exception_only(error)).strip()
    return Outcome.RAISED, f"{said} in the checks; {where}", None
