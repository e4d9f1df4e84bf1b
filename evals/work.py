"""What is to be found out about programs, and finding it out on this machine."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sized
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from evals.oracles.expected import Answered, Reference, in_pool
from evals.records import StdinCase, VerdictName
from evals.stdin_cases import is_right_output
from evals.text import one_line
from sandbox import (
    Checks,
    Ending,
    Examination,
    Execution,
    Heard,
    Incubators,
    Limits,
    Outcome,
    Pool,
    Program,
    Tier,
)

# What became of a program whose checks had their say …
_BY_OUTCOME: Final[dict[Outcome, VerdictName]] = {
    Outcome.HELD: "passed",
    Outcome.FAILED: "wrong answer",
    Outcome.RAISED: "exception",
    Outcome.SYNTAX_ERROR: "syntax error",
    Outcome.UNDEFINED: "undefined",
    Outcome.CHECKS_BROKEN: "exception",  # by its answer, if they are sound: see evals.judge
}
# … and of one that ended before they had.
_BY_ENDING: Final[dict[Ending, VerdictName]] = {
    Ending.EXITED: "exited",
    Ending.SIGNALLED: "crashed",
    Ending.TIMED_OUT_CPU: "timed out",
    Ending.TIMED_OUT_WALL: "timed out",
    Ending.OUT_OF_MEMORY: "out of memory",
    Ending.TOO_MUCH_OUTPUT: "blocked",
    Ending.TOO_MANY_PROCESSES: "blocked",
    Ending.BLOCKED: "blocked",
    Ending.CRASHED: "crashed",
}

_TRANSIENT: Final = (Ending.TIMED_OUT_WALL.value, Ending.CRASHED.value)
# Findings that are put off are not kept yet: whoever is killed now would find out so many again.
_MOST_PUT_OFF: Final = 32
_SYNTAX_ERRORS: Final = ("SyntaxError", "IndentationError", "TabError")
_SHOWN_CHARS: Final = 60
_SAID_CHARS: Final = 300


class Job(NamedTuple):
    """A program, and the checks or else the cases that it is held to.

    `key` is the same for the same work under the same conditions.
    """

    key: bytes
    program: str
    limits: Limits
    checks: Checks | None
    cases: tuple[StdinCase, ...] = ()


class Finding(NamedTuple):
    """What a verdict says of a program, whichever sample it came from.

    `weak` says that it is the program's own word. `checks_broke` says that the checks broke, by
    themselves or by the program's answer. `heard` is what the program has to answer again, where it
    is run once more (see `sandbox.Examination`).
    """

    verdict: VerdictName
    detail: str
    ending: str
    exit_code: int | None
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int | None
    output_tail: str
    isolation: str
    num_checks_passed: int | None = None
    num_checks: int | None = None
    weak: bool = False
    checks_broke: bool = False
    heard: Heard | None = None

    @property
    def is_transient(self) -> bool:
        """Whether the machine may have had a part in it: at another time it could be otherwise."""
        return self.ending in _TRANSIENT

    @property
    def is_out_of_cpu(self) -> bool:
        return self.verdict == "timed out" and self.ending == Ending.TIMED_OUT_CPU.value


class SecondTries:
    """Which programs that ran out of time, or were killed, are run again, alone, before it counts.

    Endless loops would cost as much again. So of programs held to the same checks no more are
    tried once `MOST_ALONE` in a row fared no better alone; and what second tries took that changed
    nothing, of all checks together, is `ALLOWANCE_S` at most, and beyond that `SHARE` of the time
    that the first tries took. A try that changes something costs nothing of that. Programs that
    ran out of CPU time have an account of their own: those that wait or get themselves killed take
    no second try from them.
    """

    MOST_ALONE: Final = 3
    ALLOWANCE_S: Final = 60.0
    SHARE: Final = 0.25

    def __init__(self) -> None:
        self._first_s = 0.0  # as long as all workers were busy
        self._of_cpu, self._of_machine = _Account(), _Account()

    def note(self, finding: Finding, num_workers: int) -> None:
        """Of a first try, beside so many others."""
        self._first_s += finding.wall_s / num_workers

    def grants(self, job: Job, first: Finding) -> bool:
        """Whether the job, of which that was found first, is to be tried again."""
        if first.heard is not None and not first.heard.sha256:
            return False  # it may know more now, and nobody knows what it said
        if first.is_out_of_cpu:
            account, takes_s = self._of_cpu, job.limits.cpu_s
        elif first.is_transient:
            account, takes_s = self._of_machine, max(first.wall_s, job.limits.cpu_s)
        else:
            return False
        would_take_s = account.in_vain_s + account.granted_s + takes_s
        if (
            account.alone[job.checks, job.cases] >= self.MOST_ALONE
            or would_take_s > self.ALLOWANCE_S + self.SHARE * self._first_s
        ):
            return False
        account.granted_s += takes_s
        return True

    def note_second(self, job: Job, first: Finding, second: Finding) -> None:
        """Of a second try; all that were granted have been run when the next is asked for."""
        account = self._of_cpu if first.is_out_of_cpu else self._of_machine
        account.granted_s = 0.0
        if not (second.is_out_of_cpu or second.is_transient):
            account.alone[job.checks, job.cases] = 0
            return
        # What was killed does not say how long it took.
        account.in_vain_s += max(second.wall_s, job.limits.cpu_s)
        if second.is_out_of_cpu or first.is_transient:  # else it ended in yet another way
            account.alone[job.checks, job.cases] += 1


class _Account:
    """Of second tries: what those took that were in vain, and those that were granted and not yet
    run; and how many in a row were in vain, by checks."""

    def __init__(self) -> None:
        self.in_vain_s = 0.0
        self.granted_s = 0.0
        self.alone: Counter[tuple[Checks | None, tuple[StdinCase, ...]]] = Counter()


class Examiner(Protocol):
    """Where programs are run: this machine, or others."""

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        """Each job and its finding, in any order; all are of checks, or all of cases.

        Jobs are taken as they can be run: there may be millions.
        """

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        """What reference solutions answer: see `evals.oracles.expected.Run`."""


class Here:
    """Examines on this machine.

    `limits` bound a room; each job has limits of its own in it. All its pools share `incubators`,
    if given.
    """

    def __init__(
        self,
        limits: Limits,
        num_workers: int | None = None,
        tier: Tier = Tier.FULL,
        *,
        unsafe_no_sandbox: bool = False,
        incubators: Incubators | None = None,
    ) -> None:
        self._limits = limits
        self._incubators = incubators
        self._num_workers = num_workers
        self._tier = tier
        self._unsafe_no_sandbox = unsafe_no_sandbox

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        """Each job and its finding, as they come.

        A job that ran out of time, or that something killed, is examined once more, alone: it may
        have had to wait for others, or share memory and caches with them, which makes the same
        work take more CPU time too. Some count at once, since most never end: see `SecondTries`.
        The others wait until there are some.

        Raises:
            SandboxUnavailable: this machine cannot contain programs; none has run.
        """
        jobs = iter(jobs)
        tries = SecondTries()
        for first in jobs:
            examine = _by_checks if first.checks is not None else _by_cases
            again: list[Job] = []
            firsts: dict[bytes, tuple[Job, Finding]] = {}  # of these, by key
            with self._pool(self._num_workers) as pool:
                for job, finding in examine(
                    pool, itertools.chain([first], _until_full(jobs, again))
                ):
                    tries.note(finding, pool.num_workers)
                    if tries.grants(job, finding):
                        again.append(_again(job, finding))
                        firsts[job.key] = job, finding
                    else:
                        yield job, finding._replace(heard=None)
            if again:
                with self._pool(1) as pool:
                    for again_job, finding in examine(pool, again):
                        job, first_finding = firsts[again_job.key]
                        tries.note_second(job, first_finding, finding)
                        yield job, finding._replace(heard=None)

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        with self._pool(self._num_workers) as pool:
            yield from in_pool(pool)(references)

    def _pool(self, num_workers: int | None) -> Pool:
        return Pool(
            self._limits,
            num_workers,
            tier=self._tier,
            unsafe_no_sandbox=self._unsafe_no_sandbox,
            incubators=self._incubators,
        )


def of_expected(answered: Answered) -> Finding:
    """Of a reference that checks hold for because its own answers are what they expect."""
    return Finding(
        verdict="passed",
        detail="",
        ending=Ending.STOPPED.value,
        exit_code=None,
        cpu_s=round(answered.cpu_s, 4),
        wall_s=round(answered.wall_s, 4),
        peak_memory_bytes=answered.peak_memory_bytes,
        output_tail="",
        isolation=answered.isolation,
    )


def _again(job: Job, first: Finding) -> Job:
    """The same job, for a program that has to answer again what it did."""
    if job.checks is None or first.heard is None:
        return job
    return job._replace(checks=replace(job.checks, heard=first.heard))


def _until_full(jobs: Iterator[Job], put_off: Sized) -> Iterator[Job]:
    """Jobs until so many are put off that it is time for these."""
    while len(put_off) < _MOST_PUT_OFF and (job := next(jobs, None)) is not None:
        yield job


def _by_checks(pool: Pool, jobs: Iterable[Job]) -> Iterator[tuple[Job, Finding]]:
    under_way: dict[int, Job] = {}

    def handed_over() -> Iterator[tuple[str, Checks, Limits]]:
        for position, job in enumerate(jobs):
            assert job.checks is not None
            under_way[position] = job
            yield job.program, job.checks, job.limits

    for position, examination in pool.examine_as_completed(handed_over()):
        yield under_way.pop(position), _of_checks(examination)


def _of_checks(examination: Examination) -> Finding:
    execution = examination.execution
    verdict = (
        _BY_ENDING[execution.ending]
        if examination.outcome is Outcome.ENDED
        else _BY_OUTCOME[examination.outcome]
    )
    num_passed, num_checks = examination.counts or (None, None)
    return _finding(verdict, examination.detail, [execution])._replace(
        num_checks_passed=num_passed,
        num_checks=num_checks,
        weak=examination.is_weak,
        # Beside a program they may be said to have broken by it.
        checks_broke=examination.outcome is Outcome.CHECKS_BROKEN and not examination.is_weak,
        heard=examination.heard,
    )


def _by_cases(pool: Pool, jobs: Iterable[Job]) -> Iterator[tuple[Job, Finding]]:
    """Every case is run, unless one did not come to an end: an endless loop is not tried again."""
    under_way: dict[int, tuple[_Runs, int]] = {}
    complete: deque[_Runs] = deque()

    def handed_over() -> Iterator[tuple[Program, Limits]]:
        position = itertools.count()
        for job in jobs:
            runs = _Runs(job)
            for number, case in enumerate(job.cases):
                if runs.has_stuck:
                    break
                under_way[next(position)] = runs, number
                runs.num_open += 1
                stdin = case.stdin.encode("utf-8", "surrogatepass")
                yield Program(job.program, stdin=stdin, keeps_output=True), job.limits
            runs.is_handed_over = True
            if runs.num_open == 0:
                complete.append(runs)

    for position, execution in pool.run_as_completed(handed_over()):
        runs, number = under_way.pop(position)
        runs.add(number, execution)
        if runs.is_handed_over and runs.num_open == 0:
            complete.append(runs)
        while complete:
            runs = complete.popleft()
            yield runs.job, runs.finding()
    for runs in complete:
        yield runs.job, runs.finding()


class _Runs:
    """A program's runs on its cases."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.num_open = 0
        self.is_handed_over = False
        self.has_stuck = False
        self._executions: dict[int, Execution] = {}  # by number of the case
        self._faults: dict[int, tuple[VerdictName, str]] = {}

    def add(self, number: int, execution: Execution) -> None:
        self.num_open -= 1
        # What was written is of no use once it was compared, and may be large.
        self._executions[number] = replace(execution, stdout=None)
        if (fault := _fault(self.job.cases[number], execution)) is not None:
            self._faults[number] = fault
        self.has_stuck |= execution.ending is not Ending.EXITED

    def finding(self) -> Finding:
        """By the first case that went wrong, so that it is the same whichever came back first."""
        stuck = [
            number
            for number, execution in self._executions.items()
            if execution.ending is not Ending.EXITED
        ]
        counted = range(min(stuck, default=len(self.job.cases)))
        num_passed = sum(number not in self._faults for number in counted)
        executions = [self._executions[number] for number in sorted(self._executions)]
        if self._faults:
            first = min(self._faults)
            verdict, what = self._faults[first]
            telling = self._executions[first]
            finding = _finding(verdict, f"case {first + 1}: {what}", executions, telling)
        else:
            finding = _finding("passed", "", executions)
        return finding._replace(num_checks_passed=num_passed, num_checks=len(self.job.cases))


def _fault(case: StdinCase, execution: Execution) -> tuple[VerdictName, str] | None:
    """What went wrong, in words; None if nothing did."""
    if execution.ending is not Ending.EXITED:
        return _BY_ENDING[execution.ending], execution.ending.value
    if execution.exit_code != 0:
        told = execution.output_tail.rstrip()
        said = told.rpartition("\n")[2]
        # Of code that was never run there is no traceback, but a place.
        is_syntax = said.startswith(_SYNTAX_ERRORS) and told.lstrip().startswith('File "')
        return "syntax error" if is_syntax else "exception", one_line(said, _SAID_CHARS)
    assert execution.stdout is not None  # it was to be kept
    if not is_right_output(case.stdout, execution.stdout):
        found = execution.stdout.decode("utf-8", "replace")
        return "wrong answer", f"wrote {_shown(found)}, not {_shown(case.stdout)}"
    return None


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")


def _finding(
    verdict: VerdictName,
    detail: str,
    executions: list[Execution],
    telling: Execution | None = None,
) -> Finding:
    telling = telling or executions[-1]
    peaks = [each.peak_memory_bytes for each in executions if each.peak_memory_bytes is not None]
    return Finding(
        verdict=verdict,
        detail=detail,
        ending=telling.ending.value,
        exit_code=telling.exit_code,
        cpu_s=round(sum(each.cpu_s for each in executions), 4),
        wall_s=round(sum(each.wall_s for each in executions), 4),
        peak_memory_bytes=max(peaks, default=None),
        output_tail=telling.output_tail,
        isolation=telling.isolation,
    )
