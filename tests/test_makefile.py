"""What make calls, and when it calls nothing: with a stand-in for the command line."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STAND_IN = """#!/bin/bash
[ "$1" = --help ] && exit 0
echo "$*" >> calls.log
value() { while [ $# -gt 1 ]; do [ "$1" = "$W" ] && echo "$2" && return; shift; done; }
case "$1" in
  micro) f=$(W=--out value "$@") ;;
  prepare) f=$(W=--tokens value "$@")/manifest.json ;;
  train) f=$(W=--run value "$@")/run.json ;;
  evaluate)
    d=$2/eval/$(W=--benchmark value "$@")
    [ -e fail-$(basename "$d") ] && exit 3
    mkdir -p "$d" && echo > "$d/sampling.json"
    f=$d/scores.json ;;
  bench)
    f=$3/decode-$(W=--benchmark value "$@").json
    [ "$2" != decode ] && f=$(W=--out value "$@") ;;
  report) f=$(W=--out value "$@") ;;
  gate) exit $(cat gate-status 2>/dev/null || echo 0) ;;
esac
[ -n "$f" ] && mkdir -p "$(dirname "$f")" && echo >> "$f"
exit 0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with a set-up that looks whole."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("mtp_code/recipes", "evals/benchmarks/micro"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    bin_dir = tmp_path / ".venv/bin"
    bin_dir.mkdir(parents=True)
    for name, script in (("mtp-code", STAND_IN), ("python", "#!/bin/bash\nexit 0\n")):
        (bin_dir / name).write_text(script)
        (bin_dir / name).chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def make(checkout: Path, *arguments: str, status: int = 0) -> list[str]:
    """The calls of the command line that make made."""
    return made(checkout, *arguments, status=status)[0]


def made(checkout: Path, *arguments: str, status: int = 0) -> tuple[list[str], str]:
    """The calls of the command line that make made, and what it said."""
    time.sleep(0.02)  # so that what is made now is newer than what was made before
    log = checkout / "calls.log"
    log.unlink(missing_ok=True)
    # Nothing of a make that runs these tests.
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return log.read_text().splitlines() if log.exists() else [], done.stdout


def kinds(calls: list[str]) -> list[str]:
    return [call.split()[0] for call in calls]


def test_plain_make_runs_every_stage_once_and_the_report_last(checkout):
    calls = make(checkout)
    assert kinds(calls)[:2] == ["micro", "prepare"]
    assert sorted(kinds(calls)[2:4]) == ["train", "train"]
    evaluated = [call.split("--benchmark ")[1].split()[0] for call in calls if "--bench" in call]
    assert evaluated[:4] == ["micro", "humaneval", "micro", "mbpp"]
    assert kinds(calls)[-1] == "report"
    assert len(calls) == len(set(calls))


def test_a_second_make_calls_nothing(checkout):
    make(checkout)
    assert make(checkout) == []


def test_the_twin_is_trained_with_one_head_on_the_same_tokens_and_overrides(checkout):
    calls = make(checkout, "SET=optim.lr=1e-3 seed=4")
    (twin,) = [call for call in calls if call.startswith("train tiny-next-token")]
    assert "--tokens tokens/tiny --run runs/tiny-next-token" in twin
    assert twin.endswith("--set optim.lr=1e-3 --set seed=4 --set model.num_mtp_heads=1")


def test_other_sampling_settings_draw_again_and_leave_the_other_benchmarks_alone(checkout):
    make(checkout)
    calls = make(checkout, "eval-micro", "TEMPERATURE=0.8")
    assert kinds(calls) == ["evaluate"]
    assert "--temperature 0.8" in calls[0]
    assert make(checkout, "eval-micro", "TEMPERATURE=0.8") == []


def test_the_report_runs_no_other_stage_and_touches_no_results(checkout):
    make(checkout)
    make(checkout, "eval-micro", "MICRO_SAMPLES=20")
    mine = checkout / "runs/tiny/eval/my-tasks/scores.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert kinds(make(checkout, "report")) == ["report"]
    assert mine.read_text() == "mine"


def test_samples_of_a_run_that_was_stopped_are_kept(checkout):
    make(checkout)
    (checkout / "runs/tiny/eval/micro/scores.json").unlink()
    partial = checkout / "runs/tiny/eval/micro/samples.jsonl.partial"
    partial.write_text("half")
    assert kinds(make(checkout, "eval-micro")) == ["evaluate"]
    assert partial.read_text() == "half"


def test_a_changed_recipe_is_trained_again(checkout):
    make(checkout, "train-code")
    recipe = checkout / "mtp_code/recipes/tiny.toml"
    recipe.write_text(recipe.read_text() + "# changed\n")
    assert kinds(make(checkout, "train-code")) == ["prepare", "train"]


def test_other_documents_and_decoding_lengths_are_made_again(checkout):
    make(checkout)
    calls = make(checkout, "bench-decode", "DECODE_TOKENS=7")
    assert set(kinds(calls)) == {"bench"}
    assert "--max-new-tokens 7" in calls[0]
    assert "--count 50" in make(checkout, "train-code", "MICRO_DOCUMENTS=50")[0]


def test_the_sandbox_is_measured_with_what_is_asked_for(checkout):
    compared, crowded = make(checkout, "bench-sandbox", "ROUNDS=3", "EVALPLUS_PYTHON=peers/python")
    assert compared.startswith("bench sandbox --rounds 3 --out report/sandbox.json")
    assert compared.endswith("--evalplus-python peers/python")
    assert "--fairness" in crowded
    assert "--evalplus-python" not in make(checkout, "bench-sandbox")[0]
    (soaked,) = make(checkout, "soak-sandbox", "SOAK=7")
    assert "--soak 7" in soaked
    assert make(checkout, "fuzz-sandbox") == []


def test_loss_kernels_are_installed_once_where_there_is_a_gpu_to_run_them(checkout, monkeypatch):
    installed = checkout / "installed.log"
    python = checkout / ".venv/bin/python"
    python.write_text('#!/bin/bash\n[ "$2" = pip ] && echo "$*" >> installed.log\nexit 0\n')
    keep = "bench train --keep runs/bench-gpu --out"
    assert make(checkout, "bench-gpu-train") == [f"{keep} report/train.json"]
    assert not installed.exists()
    (checkout / "gpu").mkdir()
    (checkout / "gpu/nvidia-smi").write_text("#!/bin/bash\n")
    (checkout / "gpu/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{checkout / 'gpu'}:{os.environ['PATH']}")
    for _ in range(2):
        (call,) = make(checkout, "bench-gpu-train")
        assert re.fullmatch(rf"{keep} results/train-gpu-\d{{4}}-\d\d-\d\d\.json", call)
    (line,) = installed.read_text().splitlines()
    assert line.startswith("-m pip install")
    assert line.endswith("-c constraints.txt -e .[kernels]")


def test_shapes_are_decoded_and_models_that_bench_gpu_train_left(checkout):
    calls, said = made(checkout, "bench-gpu-decode")
    assert calls == ["bench decode-shapes --batches 1 --minutes 0.4 --out report/decode.json"]
    assert "no runs/bench-gpu/n4; make bench-gpu-train leaves it" in said
    for name in ("n4", "bytes8"):
        (checkout / "runs/bench-gpu" / name / "checkpoints").mkdir(parents=True)
    calls, said = made(checkout, "bench-gpu-decode")
    assert [" ".join(call.split()[1:3]) for call in calls] == [
        "decode-shapes --batches",
        "decode runs/bench-gpu/n4",
        "decode runs/bench-gpu/n4",
        "decode runs/bench-gpu/bytes8",
        "exactness runs/bench-gpu/n4",
    ]
    assert "--prompts humaneval --peers" in calls[1]
    assert "--prompts runs/bench-gpu/held-out.txt --peers" in calls[2]
    assert "--dtype bf16" in calls[4]
    assert "--drafts 3 --batches 2 --out report/exactness.json" in calls[4]
    assert "left out" not in said


def test_the_judge_is_measured_with_what_is_asked_for(checkout):
    (measured,) = make(checkout, "bench-judge", "EVALPLUS_PYTHON=peers/python")
    assert measured == "bench judge --out report/judge.json --evalplus-python peers/python"


def test_a_benchmark_whose_data_cannot_be_had_is_left_out_but_other_failures_stop(checkout):
    calls = make(checkout)
    assert next(call for call in calls if "mbpp" in call).endswith("--if-available")
    (checkout / "fail-humaneval").touch()
    make(checkout, "eval-humaneval", "SEED=1", status=2)


def test_the_regression_check_judges_anew(checkout):
    calls = make(checkout, "ci-regression", "TOLERANCE=0.1")
    assert kinds(calls)[-3:] == ["judge", "score", "gate"]
    gate = calls[-1]
    assert gate.startswith("gate runs/tiny/eval/micro/scores.json")
    assert "--baseline evals/baselines/micro-tiny.json --tolerance 0.1" in gate
    assert calls[-3] == "judge runs/tiny/eval/micro/samples.jsonl --benchmark micro --no-cache"
    # Again, though nothing is trained or drawn: the machine may have changed.
    assert kinds(make(checkout, "ci-regression")) == ["judge", "score", "gate"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "pass"),
        (1, "regression"),
        (2, "bad input"),
        (3, "not comparable"),
        (4, "inconclusive"),
        (5, "the judge is not healthy"),
        (70, "a bug"),
    ],
)
def test_the_gates_exit_status_is_told_in_words(checkout, status, words):
    (checkout / "gate-status").write_text(str(status))
    _, said = made(checkout, "ci-regression", status=2 if status else 0)
    assert f"ci-regression: {words} (exit status {status} of mtp-code gate)" in said


def test_a_broken_set_up_is_made_again(checkout):
    (checkout / ".venv/bin/mtp-code").write_text("#!/no/such/python\n")
    (checkout / "python").write_text(
        '#!/bin/bash\n[ "$2" = venv ] && mkdir -p .venv/bin && echo "$*" >> setup.log\nexit 0\n'
    )
    (checkout / "python").chmod(0o755)
    make(checkout, "setup", "PYTHON=./python")
    assert (checkout / "setup.log").read_text().split() == ["-m", "venv", "--clear", ".venv"]
    # Whole again (the stand-in for pip installs nothing): nothing is done.
    (checkout / ".venv/bin/mtp-code").write_text(STAND_IN)
    (checkout / "setup.log").unlink()
    make(checkout, "setup", "PYTHON=./python")
    assert not (checkout / "setup.log").exists()
