"""The gate as CI meets it: exit statuses, files, and the workflow to copy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from evals.baseline import write_baseline
from evals.files import file_sha256
from evals.records import References, Sample, Score, write_record, write_samples
from tests.commands import complaint, mtp_code
from tests.evals.scored import UNRECORDED, score

ROOT = Path(__file__).parent.parent
BEFORE = ["PPPW"] * 30


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    write_baseline(score(BEFORE), tmp_path / "baseline.json")
    return tmp_path / "baseline.json"


def gate(folder: Path, now: Score, *more: object) -> subprocess.CompletedProcess[str]:
    write_record(folder / "scores.json", now)
    return mtp_code("gate", "--baseline", "baseline.json", "scores.json", *more, cwd=folder)


SICK = References(num_judged=30, failed={"Toy/4": "timed out"})
OTHER_LIMITS = {"limits": {"cpu_s": 3.0}}


@pytest.mark.parametrize(
    ("now", "more", "status", "outcome"),
    [
        (score(BEFORE), (), 0, "pass"),
        (score(["PWWW"] * 30), (), 1, "regression"),
        (score(BEFORE), ("--metric", "pass@9"), 2, None),
        (score(BEFORE, **OTHER_LIMITS), (), 3, "incomparable"),
        (score(BEFORE, **UNRECORDED), ("--require-sampling",), 3, "incomparable"),
        (score(["WPPP"] * 30), ("--tolerance", 0.01), 4, "inconclusive"),
        (score(["PPPW"] * 30, references=SICK), (), 5, "unhealthy"),
    ],
    ids=[
        "pass",
        "regression",
        "bad input",
        "incomparable",
        "unrecorded",
        "inconclusive",
        "unhealthy",
    ],
)
def test_each_outcome_has_its_exit_status_and_its_files(
    baseline: Path, now: Score, more: tuple[object, ...], status: int, outcome: str | None
) -> None:
    folder = baseline.parent
    files = ("--json", "out/gate.json", "--junit", "out/gate.xml", "--summary", "out/gate.md")
    done = gate(folder, now, *more, *files)
    assert done.returncode == status, done.stderr
    if status in (2, 3):
        complaint(done, status)
    else:
        assert f"toy {outcome}: " in done.stdout
        assert f"(exit status {status})" in done.stdout
    if outcome is None:
        assert not (folder / "out").exists()
        return
    found = json.loads((folder / "out/gate.json").read_text())
    assert (found["outcome"], found["exit_status"]) == (outcome, status)
    assert ElementTree.parse(folder / "out/gate.xml").getroot().tag == "testsuites"
    assert f"**{outcome}**" in (folder / "out/gate.md").read_text()


def test_what_is_refused_is_told_in_one_line_and_of_what_is_shown_nothing(baseline: Path) -> None:
    held = gate(baseline.parent, score(BEFORE))
    assert "samples.jsonl: not there" in held.stderr  # the control
    refused = gate(baseline.parent, score(BEFORE, **OTHER_LIMITS))
    assert len(refused.stderr.splitlines()) == 1


def test_a_summary_is_added_to(baseline: Path) -> None:
    summary = baseline.parent / "summary.md"
    summary.write_text("# Before\n")
    assert gate(baseline.parent, score(BEFORE), "--summary", summary).returncode == 0
    assert summary.read_text().startswith("# Before\n`toy` **pass**")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--metric", "pass@0"), "--metric 'pass@0': no such metric"),
        (("--metric", "pass@1", "--metric", "pass@1=0.5"), "--metric pass@1: given twice"),
        (("--metric", "pass@1=much"), "'much' is no tolerance; expected 0 to 1"),
        (("--metric", "pass@1=2"), "'2' is no tolerance"),
        (("--metric", "checks passed"), "do not hold how many checks passed"),
        (("--baseline", "nowhere.json"), "nowhere.json: No such file"),
    ],
)
def test_bad_input_is_one_line(baseline: Path, more: tuple[str, ...], message: str) -> None:
    assert message in complaint(gate(baseline.parent, score(BEFORE), *more), 2)


def test_each_metric_may_have_its_own_tolerance(baseline: Path) -> None:
    now = score(["PPWW"] * 30)
    done = gate(baseline.parent, now, "--metric", "pass@1=0.5", "--metric", "parsed")
    assert done.returncode == 0, done.stdout
    assert "tolerance 50 points" in done.stdout
    assert "tolerance 2 points" in done.stdout


def test_a_rise_is_warned_of_and_passes(baseline: Path) -> None:
    done = gate(baseline.parent, score(["PPPP"] * 30))
    assert done.returncode == 0
    assert "note: pass@1 rose by 25.0 points" in done.stderr


def test_samples_of_changed_tasks_are_shown_from_both_sides(tmp_path: Path) -> None:
    def scored(folder: str, letters: list[str], text: str) -> Path:
        path = tmp_path / folder / "samples.jsonl"
        path.parent.mkdir()
        write_samples(
            path,
            [
                Sample(task_id=f"Toy/{task}", index=index, completion=f"{text} {task}")
                for task in range(len(letters))
                for index in range(4)
            ],
        )
        record = score(letters).model_copy(update={"samples_sha256": file_sha256(path)})
        write_record(path.with_name("scores.json"), record)
        return path.with_name("scores.json")

    was = scored("was", ["PPPP", "PPPP"], "before")
    now = scored("now", ["PPPP", "WWWW"], "after")
    assert mtp_code("baseline", was, "--out", "b.json", cwd=tmp_path).returncode == 0
    mtp_code("gate", now, "--baseline", "b.json", "--summary", "s.md", cwd=tmp_path)
    page = (tmp_path / "s.md").read_text()
    assert "before 1" in page
    assert "after 1" in page
    now.with_name("samples.jsonl").write_text("{}\n")
    done = mtp_code("gate", now, "--baseline", "b.json", cwd=tmp_path)
    assert "not what scores.json was made from" in done.stderr
    assert done.returncode in (1, 4)


def test_the_self_test_says_whether_the_gate_holds(baseline: Path) -> None:
    done = mtp_code(
        "gate", "self-test", "--baseline", baseline, "--repeats", 100, "--drop", 0.2,
        "--json", "self-test.json", cwd=baseline.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "← false alarms" in done.stdout
    assert "holds: false alarms ≤ 5 %, power ≥ 80 %" in done.stdout
    found = json.loads((baseline.parent / "self-test.json").read_text())
    assert 0.2 in [trial["drop"] for trial in found["trials"]]


def test_temperatures_are_swept(tmp_path: Path) -> None:
    for temperature, letters in ((0.2, ["PPWW", "PPPP"]), (0.8, ["PWWW", "PPPW"])):
        at = score(letters)
        assert at.sampling is not None
        sampling = at.sampling.model_copy(update={"temperature": temperature})
        write_record(tmp_path / f"{temperature}.json", at.model_copy(update={"sampling": sampling}))
    done = mtp_code("sweep", "0.2.json", "0.8.json", "--json", "sweep.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "oracle over temperatures 75.0 % at 0.2" in done.stdout
    assert "cross-fitted" in done.stdout
    assert json.loads((tmp_path / "sweep.json").read_text())["by_k"]["1"]["oracle"]["value"] == 0.75
    assert "two temperatures or more" in complaint(mtp_code("sweep", "0.2.json", cwd=tmp_path), 2)
    twice = mtp_code("sweep", "0.2.json", "0.2.json", cwd=tmp_path)
    assert "0.2.json: given twice" in complaint(twice, 2)


TASK = {
    "task_id": "mine/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}


def test_the_workflow_to_copy_runs(needs_sandbox: None, tmp_path: Path) -> None:
    """Its own steps, with this Python's mtp-code; twice, for there must be a baseline first."""
    workflow = yaml.safe_load((ROOT / "docs/gate-workflow.yml").read_text())
    steps = {
        step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step
    }
    (tmp_path / "tasks.jsonl").write_text(
        "".join(json.dumps(TASK | {"task_id": f"mine/{at}"}) + "\n" for at in range(8))
    )
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "mtp-code").write_text(f'#!/bin/bash\nexec {sys.executable} -m mtp_code.cli "$@"\n')
    (bin_dir / "mtp-code").chmod(0o755)

    def run(name: str, status: int = 0) -> None:
        done = subprocess.run(
            ["bash", "-e", "-c", steps[name]],
            cwd=tmp_path,
            env={
                **os.environ,
                **workflow["env"],
                "PATH": f"{bin_dir}:{os.environ['PATH']}",
                "BENCHMARK": "tasks.jsonl",
                "BASELINE": "baseline.json",
                "NUM_SAMPLES": "2",
                "GITHUB_STEP_SUMMARY": "summary.md",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr

    (tmp_path / "draw-samples").write_text("#!/bin/bash\nmkdir -p eval\ncp drawn.jsonl $2\n")
    (tmp_path / "draw-samples").chmod(0o755)

    def draw(completion: str) -> None:
        write_samples(
            tmp_path / "drawn.jsonl",
            [
                Sample(task_id=f"mine/{at}", index=index, completion=completion)
                for at in range(8)
                for index in range(2)
            ],
        )
        run("Draw samples")

    draw("    return x\n")
    run("Judge")
    baseline = mtp_code("baseline", "eval/scores.json", "--out", "baseline.json", cwd=tmp_path)
    assert baseline.returncode == 0
    run("Gate")
    for warning in ("nothing vouches", "nothing says", "not all is recorded"):
        assert warning not in (tmp_path / "summary.md").read_text()
    draw("    return -x\n")
    run("Judge")
    run("Gate", status=1)
    assert "return -x" in (tmp_path / "summary.md").read_text()
