"""What several commands do."""

import shlex
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evals.errors
from evals.records import SAMPLES_FILE
from mtp_code.cli.show import warn
from sandbox import Tier

if TYPE_CHECKING:
    from evals.benchmarks import Benchmark
    from evals.records import KeptSample, Score
    from mtp_code.data.contamination import Reference


@cache
def named_benchmark(name: str) -> "Benchmark":
    """A benchmark, read once however many stages of a command use it."""
    from evals.benchmarks import load_benchmark

    return load_benchmark(name)


def all_references() -> "list[Reference]":
    """Prompts and solutions of all benchmarks within reach: what must not be trained on."""
    from evals.benchmarks import ORIGINALS
    from mtp_code.data.contamination import Reference

    references = []
    for name in ORIGINALS:
        try:
            loaded = named_benchmark(name)
        except evals.errors.MachineError as error:
            warn(f"not decontaminated against {name}: {error}")
            continue
        references += [
            Reference(task.task_id, task.prompt + (task.reference or "")) for task in loaded.tasks
        ]
    return references


def require_sandbox(tier: Tier = Tier.FULL, unsafe_no_sandbox: bool = False) -> None:
    if unsafe_no_sandbox:
        return
    import sandbox

    sandbox.require(tier)


def samples_beside(scores: Path, scored: "Score") -> "dict[str, KeptSample]":
    """A sample of each task, where those that were scored lie beside the scores."""
    from evals.baseline import kept_samples
    from evals.files import file_sha256

    path = scores.with_name(SAMPLES_FILE)
    if not path.exists():
        warn(f"{path}: not there, so no samples are kept or shown")
        return {}
    if file_sha256(path) != scored.samples_sha256:
        warn(f"{path}: not what {scores.name} was made from, so no samples are kept or shown")
        return {}
    return kept_samples(path, scored)


def provenance() -> dict[str, Any]:
    """What a file of figures says of where they come from."""
    from mtp_code.machine import current_commit, describe_machine

    return {
        "schema": 1,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": current_commit(),
        "command": shlex.join(["mtp-code", *sys.argv[1:]]),
    }
