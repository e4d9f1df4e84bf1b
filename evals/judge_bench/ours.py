"""Our own judge, as its command: a process of its own, and a cache that begins empty."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.judge_bench.harnesses import scratch_environment
from evals.judge_bench.programs import Program, read_parts, write_programs


@dataclass(frozen=True)
class Ours:
    """`command` is that of `mtp-code judge`: samples, `--benchmark` and `--out` come after it."""

    command: Sequence[str]
    scratch: Path

    def arguments(
        self, samples: Path, benchmark: str, out: Path, num_workers: int | None = None
    ) -> list[str]:
        workers = [] if num_workers is None else ["--workers", str(num_workers)]
        names = ["--benchmark", benchmark, "--out", str(out)]
        return [*self.command, str(samples), *names, *workers]

    def environment(self, cache: Path) -> dict[str, str]:
        """Expected outputs, and whatever else is kept, go into `cache` and nowhere else."""
        return {**os.environ, **scratch_environment(cache)}

    def judge(
        self,
        chosen: Sequence[Program],
        benchmark: str,
        num_workers: int | None = None,
        cpu_s: float | None = None,
    ) -> list[dict[str, str]]:
        """The verdict on each, part by part; no finding of an earlier call is used.

        `cpu_s` is the limit, which is else the benchmark's.

        Raises:
            RuntimeError: the judge failed; told with its last words.
        """
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        samples = write_programs(folder / "samples.jsonl", chosen)
        out = folder / "verdicts.jsonl"
        limit = [] if cpu_s is None else ["--cpu-s", str(cpu_s)]
        done = subprocess.run(
            [*self.arguments(samples, benchmark, out, num_workers), *limit],
            env=self.environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{benchmark}: the judge ended with {done.stderr.strip()[-500:]!r}")
        return read_parts(out)
