"""What the reference solutions of a + benchmark answer: asked once, in the sandbox, and kept.

Kept is compressed JSON of plain data, with digests in place of large answers: EvalPlus's pickles of
the same answers take 255 MB (HumanEval+) and 793 MB (MBPP+).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import lzma
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from evals.errors import InputError
from evals.files import Progress, cache_folder, json_line, write_whole
from evals.oracles.holding import hold
from evals.oracles.shipping import checks_source, with_record
from evals.text import one_line

if TYPE_CHECKING:
    from evals.benchmarks.formats import Benchmark
    from evals.records import Task
    from sandbox import Pool

log = logging.getLogger(__name__)

_SCHEMA: Final = 1  # of the file; what its answers hang on is hashed
_FIRST_CHUNK: Final = 10  # most wrong programs are wrong at once
_CHUNK_CHARS: Final = 1_000_000  # of expected answers; the sandbox takes 8 MB
_PARTS: Final = ("base", "plus")

# What a reference may take for all its inputs: 21 s of CPU and 1.2 GB are the most that any does.
_CPU_S: Final = 300.0
_MEMORY_BYTES: Final = 4 << 30
_OUTPUT_BYTES: Final = 256 << 20

# Of CPU time: what takes less is soon run again. In HumanEval+ ten references take more, and nine
# tenths of the time of all.
_LONG_S: Final = 0.1

# A file of answers that nobody has read for so long is removed when one is written.
_KEPT_S: Final = 90 * 24 * 3600.0
_SUFFIX: Final = ".jsonl.xz"


class Reference(NamedTuple):
    """A program that reads `stdin` and writes its answers, and what to call it in an error."""

    name: str
    source: str
    stdin: bytes


class Answered(NamedTuple):
    """What a reference wrote, and what that took."""

    written: bytes
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int
    isolation: str


class Expected(NamedTuple):
    """The benchmark with its checks; and by task id the references that took long to answer now.

    Those need not be run once more to show that the checks hold for them: their answers are what
    is expected, and do agree with themselves.
    """

    benchmark: Benchmark
    long_runs: dict[str, Answered]


Run = Callable[[Iterable[Reference]], Iterator[Answered]]

_decoder: Final = json.JSONDecoder()


def with_expected_outputs(
    benchmark: Benchmark,
    run: Run,
    folder: Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Expected:
    """The benchmark with the checks of its + tasks; one that has none is returned as it is.

    `run` gives what each program wrote, in order; `in_pool` is such a one. It is not called where
    `folder` (by default one in the user's cache) holds the answers of the same programs, our own
    code in them included, to the same inputs under the same version of Python, processor and C
    library.

    Raises:
        InputError: a reference solution fails.
    """
    if all(task.oracle is None for task in benchmark.tasks):
        return Expected(benchmark, {})
    folder = folder or cache_folder() / "expected"
    path = folder / f"{benchmark.name}-{_key(benchmark)[:16]}{_SUFFIX}"
    outputs = _read(path)
    long_runs: dict[str, Answered] = {}
    if outputs is None:
        outputs, long_runs = _ask(benchmark, run, on_progress)
        try:
            _write(path, outputs)
            _remove_unread(folder)
        except (OSError, InputError) as error:
            log.warning("expected outputs are not kept: %s", error)
    tasks = [
        task if task.oracle is None else _with_checks(task, outputs[task.task_id])
        for task in benchmark.tasks
    ]
    return Expected(replace(benchmark, tasks=tuple(tasks)), long_runs)


def in_pool(pool: Pool) -> Run:
    """Runs references in the sandbox."""
    from sandbox import Program

    def run(references: Iterable[Reference]) -> Iterator[Answered]:
        limits = replace(
            pool.limits,
            cpu_s=_CPU_S,
            wall_s=None,
            memory_bytes=_MEMORY_BYTES,
            output_bytes=_OUTPUT_BYTES,
        )
        asked = list(references)
        programs = [
            (Program(each.source, stdin=each.stdin, keeps_output=True), limits) for each in asked
        ]
        for reference, execution in zip(asked, pool.run_all(programs), strict=True):
            if execution.exit_code != 0:
                raise InputError(
                    f"{one_line(reference.name)}: its reference solution fails "
                    f"({execution.ending.value}): {execution.output_tail.strip()[-300:]!r}"
                )
            assert execution.stdout is not None  # it was to be kept
            yield Answered(
                execution.stdout,
                execution.cpu_s,
                execution.wall_s,
                execution.peak_memory_bytes,
                execution.isolation,
            )

    return run


def _key(benchmark: Benchmark) -> str:
    """Whatever the answers depend on.

    Sums of floats, for one, are others from Python 3.12 on, and sines are the C library's.
    """
    python = [sys.implementation.name, *sys.version_info[:2]]
    arithmetic = [platform.machine(), *platform.libc_ver()]
    digest = hashlib.sha256(json_line([_SCHEMA, *python, *arithmetic]))
    for task in _asked(benchmark):
        asked = _reference(task)
        of_task = [task.task_id, asked.source, hashlib.sha256(asked.stdin).hexdigest()]
        digest.update(json_line(of_task))
    return digest.hexdigest()


def _asked(benchmark: Benchmark) -> list[Task]:
    return [task for task in benchmark.tasks if task.oracle]


def _ask(
    benchmark: Benchmark, run: Run, on_progress: Progress
) -> tuple[dict[str, dict[str, str]], dict[str, Answered]]:
    """Answers by task id and part, and the runs that took long."""
    tasks = _asked(benchmark)
    outputs: dict[str, dict[str, str]] = {}
    long_runs: dict[str, Answered] = {}
    on_progress(0, len(tasks))
    for task, answered in zip(tasks, run(map(_reference, tasks)), strict=True):
        parts = outputs[task.task_id] = _parts(task, answered.written)
        if answered.cpu_s >= _LONG_S and _agree_with_themselves(task, parts):
            long_runs[task.task_id] = answered._replace(written=b"")
        on_progress(len(outputs), len(tasks))
    return outputs, long_runs


def _parts(task: Task, written: bytes) -> dict[str, str]:
    """
    Raises:
        InputError: it is not a line of answers a part.
    """
    oracle = task.oracle
    assert oracle is not None
    lines = written.decode("utf-8", "replace").splitlines()
    due = [len(_elements(oracle.inputs[part])) for part in _PARTS]
    try:
        came = [len(_elements(line)) if line.startswith("[") else -1 for line in lines]
    except ValueError:
        came = []
    if came != due:
        raise InputError(
            f"{one_line(task.task_id)}: its reference solution ends before it has answered all "
            "inputs, or writes lines of its own; mend it"
        )
    return dict(zip(_PARTS, lines, strict=True))


def _agree_with_themselves(task: Task, parts: dict[str, str]) -> bool:
    """Whether the answers pass for right ones: nan does not, nor what is no plain data."""
    oracle = task.oracle
    assert oracle is not None
    for part, outputs in parts.items():
        try:
            hold(
                task.entry_point,
                None,
                lambda *_, told=outputs: told,
                oracle.rule,
                oracle.atol,
                [(oracle.inputs[part], outputs)],
            )
        except AssertionError:
            return False
    return True


def _reference(task: Task) -> Reference:
    """Asked for all parts in one go, a line each."""
    oracle = task.oracle
    assert oracle is not None
    assert task.reference is not None
    program = task.program_prefix + task.reference
    return Reference(
        task.task_id,
        with_record(program, task.entry_point, oracle.atol, oracle.rule),
        "\n".join(oracle.inputs[part] for part in _PARTS).encode(),
    )


def _with_checks(task: Task, outputs: dict[str, str]) -> Task:
    base, plus = (_checks(task, part, outputs[part]) for part in _PARTS)
    return task.model_copy(update={"checks": base, "plus_checks": plus})


def _checks(task: Task, part: str, outputs: str) -> str:
    oracle = task.oracle
    assert oracle is not None
    chunks = [*_chunks(_elements(oracle.inputs[part]), _elements(outputs))]
    return checks_source(task.entry_point, oracle.rule, oracle.atol, chunks)


def _chunks(inputs: list[str], outputs: list[str]) -> Iterator[tuple[str, str]]:
    start, num_chars = 0, 0
    for end, text in enumerate(outputs, start=1):
        num_chars += len(text)
        if end in (_FIRST_CHUNK, len(outputs)) or num_chars > _CHUNK_CHARS:
            yield _as_list(inputs[start:end]), _as_list(outputs[start:end])
            start, num_chars = end, 0


def _elements(text: str) -> list[str]:
    """The texts of the elements of a list that `encode` wrote: to write them again takes longer."""
    found, start = [], 1
    while start < len(text) - 1:
        _, end = _decoder.raw_decode(text, start)
        found.append(text[start:end])
        start = end + 1
    return found


def _as_list(texts: list[str]) -> str:
    return f"[{','.join(texts)}]"


def _read(path: Path) -> dict[str, dict[str, str]] | None:
    """The answers, or None where they are not kept there, whole."""
    try:
        with lzma.open(path) as file:
            rows = [json.loads(line) for line in file]
        with contextlib.suppress(OSError):  # another user's
            os.utime(path)
        return {row["task_id"]: {part: row[part] for part in _PARTS} for row in rows}
    except (OSError, EOFError, lzma.LZMAError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path, outputs: dict[str, dict[str, str]]) -> None:
    # The usual preset makes the file a sixth smaller, and takes seven times as long.
    with write_whole(path) as plain, lzma.open(plain, "wb", preset=1) as file:
        for task_id, parts in outputs.items():
            file.write(json_line({"task_id": task_id, **parts}))


def _remove_unread(folder: Path) -> None:
    """Answers of data, code and interpreters that are no longer in use."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # somebody else was faster
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()
