"""What came of calling a program from checks that run elsewhere."""

from dataclasses import dataclass
from typing import NamedTuple

from sandbox.execution import Execution
from sandbox.outcome import Outcome


class Heard(NamedTuple):
    """What a program said to its checks, in the end: how much, and its sha256 (empty if that is not
    known)."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Checks:
    """Python source that calls a program and asserts what the answers must be.

    It runs in a second contained process, which never executes the program. Every name that it uses
    and neither defines nor finds among the builtins stands for what the program calls so. ``names``
    always do, even where they shadow a builtin; a function or class of such a name that the source
    itself defines at top level is left out, so that a prompt with a stub of the function can serve
    as set-up.

    ``beside`` runs it in the program's own process and module instead, for checks that patch the
    program or look into it. A program can then talk itself into a pass: see `Examination.is_weak`.

    ``are_live`` and ``are_tidy`` are their author's word, where finding out would cost time or be
    in vain: that what they ask hangs on answers, so that nothing can be recorded; and that they
    leave the process that they run in as it was, so that others may run there after them.

    ``counts`` asks for the number of assertions that hold, where not all do: on the answers that
    are there, or else by running the program once more. (Not for checks beside it.)

    ``heard`` is that of an examination of the same program by these checks: it has to answer again
    what it did then.
    """

    source: str
    names: tuple[str, ...] = ()
    beside: bool = False
    are_live: bool = False
    are_tidy: bool = False
    counts: bool = False
    heard: "Heard | None" = None

    def names_taken(self) -> set[str]:
        """The names that stand for what the program calls so.

        Raises:
            SyntaxError, ValueError, RecursionError: the source does not compile.
        """
        from sandbox.checker import names_taken  # here, since few ask

        return names_taken(self.source, self.names)


@dataclass(frozen=True)
class Examination:
    """``detail`` says in a line what led to the outcome; ``execution`` is the program's.

    ``is_weak`` says that the outcome is the program's own word, from checks beside it. ``counts``
    are the assertions that hold and all that were met, where that was asked for and not all hold:
    none of those in the text, where it could not be found out.

    ``heard`` is for who runs the program again. It is told of one that ended before its checks were
    through and was asked call by call: it may have been asked what tells of what it had answered.
    """

    outcome: Outcome
    detail: str
    execution: Execution
    is_weak: bool = False
    counts: tuple[int, int] | None = None
    heard: Heard | None = None


@dataclass(frozen=True)
class Answer:
    """What a program's function answered.

    ``value`` is plain data of exact types, an `Opaque` where it is (or holds) an object of the
    program's own, and None where there is no answer. ``raised`` is empty, or says what the program
    raised or why else there is no answer.
    """

    value: object
    raised: str
    execution: Execution


@dataclass(frozen=True)
class Opaque:
    """An object that stayed with the program; ``kind`` is the name that it gives its class."""

    kind: str
